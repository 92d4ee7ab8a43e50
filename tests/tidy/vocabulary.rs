//! One word for each thing: names that DESIGN.md's table of words has retired must not come back.
//!
//! An identifier is cut into its words, as is a file's name; a retired one is a finding, with what to say instead. Where a
//! word has an honest meaning of its field, `HONEST` allows it there and says why. Long names of tests are sentences: of
//! them only the words that no sentence needs are looked at. A few riddles are looked for in comments, too.

use crate::File;
use std::collections::BTreeSet;

pub fn check(file: &File) -> Vec<String> {
    let path = &file.path;
    let mut findings = Vec::new();
    for part in path.split('/') {
        let stem = part.split('.').next().unwrap_or(part);
        for (word, instead) in retired_in(stem, path) {
            findings.push(format!("{path}:1: a file or folder named for `{word}`; say {instead}"));
        }
    }
    if let Some((name, instead)) =
        RETIRED_FILES.iter().find(|(name, _)| path.starts_with("src/") && path.ends_with(name))
    {
        findings.push(format!("{path}:1: `{name}` says nothing of what lies in it; {instead}"));
    }
    let Some(rust) = &file.rust else { return findings };
    let mut seen = BTreeSet::new();
    for (index, token) in rust.tokens.iter().enumerate() {
        let text = |index: usize| rust.tokens.get(index).map_or("", |token| &*token.text);
        let before = |back: usize| index.checked_sub(back).map_or("", text);
        if is_of_std(before(1), &token.text, text(index + 1)) || is_config_key(before(1), before(2), &token.text) {
            continue;
        }
        let (line, name) = (token.line, &token.text);
        for (word, instead) in retired_in(name, path) {
            if seen.insert((line, name)) {
                findings.push(format!("{path}:{line}: `{name}`: not `{word}` but {instead}"));
            }
        }
        if let Some((_, instead)) = RETIRED_TYPES.iter().find(|(of, _)| of == name)
            && path.starts_with("src/")
            && seen.insert((line, name))
        {
            findings.push(format!("{path}:{line}: `{name}` is no type's name; say {instead}"));
        }
    }
    for (line, comment) in (1..).zip(&rust.comments) {
        let found = RIDDLES.iter().find(|(riddle, _)| comment.to_lowercase().contains(riddle));
        if let Some((riddle, instead)) = found.filter(|_| !path.starts_with("tests/tidy/")) {
            findings.push(format!("{path}:{line}: \"{riddle}\" is a riddle; {instead}"));
        }
    }
    findings
}

/// The retired words in a name, and what to say instead.
fn retired_in(name: &str, path: &str) -> Vec<(&'static str, &'static str)> {
    let words = words_of(name);
    let is_sentence = words.len() > NAME_WORDS_MAX;
    let retired = |word: &String| {
        let singular = word.strip_suffix('s').unwrap_or(word);
        RETIRED.iter().find(|(of, grade, _)| (of == word || *of == singular) && !(is_sentence && *grade == Grade::Name))
    };
    let is_honest = |retired: &str| {
        HONEST.iter().filter(|honest| honest.word == retired).any(|honest| {
            honest.places.iter().any(|place| path.starts_with(place))
                && (honest.phrase.is_empty() || contains(&words, honest.phrase))
        })
    };
    let found = words.iter().filter_map(retired).filter(|(word, ..)| !is_honest(word));
    found.map(|(word, _, instead)| (*word, *instead)).collect()
}

/// `take_HTTPLine2` → take, http, line, 2.
fn words_of(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (index, &c) in chars.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| chars[before]);
        let lower_follows = chars.get(index + 1).is_some_and(|next| next.is_lowercase());
        let begins = c.is_uppercase() && before.is_some_and(|before| before.is_lowercase() || lower_follows)
            || before.is_some_and(|before| before.is_ascii_digit() != c.is_ascii_digit());
        if !c.is_alphanumeric() || begins {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().expect("one at least").extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn contains(words: &[String], phrase: &str) -> bool {
    let phrase: Vec<&str> = phrase.split('_').collect();
    words.windows(phrase.len()).any(|window| window == phrase)
}

/// `text.lines()`, `line!()`: names that the standard library has given.
fn is_of_std(before: &str, name: &str, next: &str) -> bool {
    matches!((before, name, next), (".", "lines", "(") | ("::", "lines", _) | (_, "line", "!"))
}

/// `store.patience`, as the operator calls it, where it is read out of the configuration.
fn is_config_key(before: &str, owner: &str, name: &str) -> bool {
    before == "." && CONFIG_KEYS.contains(&(owner, name))
}

#[derive(Clone, Copy, PartialEq)]
enum Grade {
    /// Nowhere.
    Everywhere,
    /// Not as a name; a sentence may need it.
    Name,
}
use Grade::{Everywhere, Name};

/// A word, or its plural.
const RETIRED: &[(&str, Grade, &str)] = &[
    ("lane", Everywhere, "a connection to the backend"),
    ("shelf", Everywhere, "inbox"),
    ("shelves", Everywhere, "inboxes"),
    ("storebox", Everywhere, "the store's queue or inbox"),
    ("letter", Everywhere, "handover, or what is sent"),
    ("door", Everywhere, "handover channel"),
    ("stub", Everywhere, "origin: the slot that a handover leaves behind"),
    ("outlet", Everywhere, "response writer"),
    ("asker", Everywhere, "caller, requester or waiter"),
    ("storeline", Everywhere, "commands, or store queue"),
    ("keeping", Name, "store state, or storing"),
    ("kept", Name, "stored, remembered, retained: whichever it is"),
    ("told", Name, "completed, notified, reported or sent: whichever it is"),
    ("tell", Name, "notify, report, complete or send: whichever it is"),
    ("held", Name, "in flight, received, or locked: whichever it is"),
    ("said", Name, "sent, reported or received: whichever it is"),
    ("given", Name, "the response, or what was passed"),
    ("laid", Name, "queued or pushed"),
    ("lay", Name, "push or put"),
    ("asks", Name, "queries, calls or hooks"),
    ("ask", Name, "query (to a shard), call (to us) or hook (to the business server)"),
    ("asked", Name, "query (to a shard), call (to us) or hook (to the business server)"),
    ("asking", Name, "querying, or waiting for the response"),
    ("question", Name, "query, call or request"),
    ("waits", Name, "oneshot, waiters, or durations"),
    ("news", Name, "completion, event or outcome"),
    ("mail", Name, "mailbox message"),
    ("whose", Name, "owner"),
    ("whence", Name, "origin or source"),
    ("home", Name, "owner"),
    ("line", Name, "connection, stream or queue: say of what"),
    ("moved", Name, "handed over"),
    ("moves", Name, "handovers"),
    ("again", Name, "retry, repeat or resend"),
    ("patience", Name, "deadline or timeout; of the store: store_after"),
];

/// Whole names of types in `src` that stood for something of the field's.
const RETIRED_TYPES: &[(&str, &str)] = &[
    ("Work", "Command"),
    ("What", "Operation"),
    ("Step", "Mutation"),
    ("Order", "Offset"),
    ("Found", "StoredSession"),
    ("Ticket", "QueryId"),
    ("Parts", "Gather or the parts' own name"),
    ("At", "the state, the index or the position that it is"),
    ("Core", "the part that owns the state (a core is a CPU)"),
    ("NotKept", "NotStored"),
    ("Waits", "Oneshot"),
    ("Asks", "Gather"),
];

/// Files of `src` whose names said nothing.
const RETIRED_FILES: &[(&str, &str)] = &[
    ("/words.rs", "input, output and settings have files of their own"),
    ("/parts.rs", "name it for the calls, or replies, that it adds up"),
    ("/steps.rs", "name it for the mutations that it makes"),
    ("/core.rs", "name it for the state that it owns"),
    ("/repeats.rs", "idempotent calls"),
    ("/figures.rs", "metrics"),
];

/// A retired word that is the field's own word there.
struct Honest {
    word: &'static str,
    /// With these words of the name beside it, as `a_b`; empty: with any.
    phrase: &'static str,
    places: &'static [&'static str],
    #[expect(dead_code, reason = "for whoever reads the table")]
    why: &'static str,
}

const HONEST: &[Honest] = &[
    Honest {
        word: "line",
        phrase: "",
        places: &["src/config/", "src/main.rs", "tests/it/config_cli.rs"],
        why: "a configuration file has lines, and a fault names one",
    },
    Honest {
        word: "line",
        phrase: "",
        places: &["src/wire/http1/", "src/policy/backend/actions.rs", "tests/it/heads.rs"],
        why: "RFC 9112: the head of a message is lines, and a header of several values may be several of them",
    },
    Honest {
        word: "line",
        phrase: "",
        places: &["src/io/log/", "src/metrics/", "src/io/api/info.rs", "tests/it/logging.rs"],
        why: "a log has lines, of which some are lost",
    },
    Honest { word: "line", phrase: "status_line", places: &["src/", "bench/"], why: "RFC 9112 section 4" },
    Honest { word: "line", phrase: "request_line", places: &["src/", "bench/", "tests/"], why: "RFC 9112 section 3" },
    Honest { word: "line", phrase: "read_line", places: &["src/", "bench/", "tests/"], why: "of std's BufRead" },
    Honest {
        word: "line",
        phrase: "",
        places: &["src/io/backend/request_writer.rs", "src/io/backend/tests/rig.rs"],
        why: "RFC 9112: a request that is written, and the header lines that a client sent",
    },
    Honest {
        word: "line",
        phrase: "",
        places: &["src/metrics/text.rs"],
        why: "OpenMetrics: the text is lines, and each has its form",
    },
    Honest {
        word: "line",
        phrase: "",
        places: &[
            "src/store/redis/servers/connection.rs",
            "src/store/redis/tests.rs",
            "src/store/redis/tests/server.rs",
            "src/store/sqlite/tests/faults.rs",
        ],
        why: "INFO of Redis is lines of text; tests read what a child process prints, line by line",
    },
    Honest { word: "line", phrase: "", places: &["src/demo/"], why: "what people type into the chat" },
    Honest { word: "line", phrase: "", places: &["src/audit/ledger.rs"], why: "the ledger is a text file" },
    Honest { word: "line", phrase: "", places: &["tests/tidy/"], why: "lines of source text" },
    Honest {
        word: "line",
        phrase: "",
        places: &[
            "tests/crash/audit.rs",
            "tests/it/drain.rs",
            "tests/it/forward.rs",
            "tests/it/harness/",
            "tests/it/info.rs",
            "tests/it/load.rs",
            "tests/it/redis.rs",
            "tests/it/signatures.rs",
        ],
        why: "they read logs, /proc, Prometheus text and heads",
    },
    Honest {
        word: "line",
        phrase: "",
        places: &[
            "bench/load/api.rs",
            "bench/load/history.rs",
            "bench/load/meter.rs",
            "bench/load/row.rs",
            "bench/load/target.rs",
        ],
        why: "they read /proc, heads and logs, and print tables",
    },
    Honest { word: "again", phrase: "try_again", places: &["src/", "tests/"], why: "RFC 6455: 1013, Try Again Later" },
    Honest { word: "given", phrase: "given_up", places: &["src/", "tests/"], why: "an attempt is given up" },
    Honest { word: "given", phrase: "given_back", places: &["src/", "tests/"], why: "what was lent is given back" },
    Honest { word: "held", phrase: "held_ids", places: &["src/", "tests/"], why: "PROTOCOL: ids that a client holds" },
    Honest { word: "letter", phrase: "", places: &["src/config/kind/"], why: "letters of a text" },
    Honest {
        word: "letter",
        phrase: "dead_letter",
        places: &["src/", "tests/"],
        why: "a message that nobody could deliver, in the literature on queues, and `dead_letter_url`",
    },
    Honest { word: "letter", phrase: "dead_letters", places: &["src/", "tests/"], why: "the same" },
    Honest { word: "moved", phrase: "", places: &["src/store/redis"], why: "MOVED is an answer of Redis" },
    Honest { word: "moved", phrase: "", places: &["src/demo/"], why: "people move from room to room" },
    Honest { word: "patience", phrase: "", places: &["src/config/"], why: "`store.patience` is a key that users know" },
];

const CONFIG_KEYS: &[(&str, &str)] = &[("store", "patience"), ("store", "patience_ms")];

/// What a comment must not leave to be guessed, in small letters.
const RIDDLES: &[(&str, &str)] = &[
    ("whence", "name where it comes from"),
    ("seems to be so", "name what is the case, and who says so"),
    ("told of", "name who reports what to whom"),
    ("is to hear", "name who sends what to whom"),
    ("whose they are", "name the owner"),
    ("whose it is", "name the owner"),
    ("is no more", "it has ended, or was removed"),
    ("are no more", "they have ended, or were removed"),
];

/// A longer name is a sentence.
const NAME_WORDS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::{check, words_of};
    use crate::File;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&File::new(path, format!("//! Planted.\n{text}\n")))
    }

    #[track_caller]
    fn caught(path: &str, text: &str, expected: &str) {
        let found = findings(path, text);
        assert_eq!(found.len(), 1, "{text:?} gave {found:?}");
        assert!(found[0].starts_with(&format!("{path}:2: ")) && found[0].contains(expected), "{found:?}");
    }

    #[track_caller]
    fn clean(path: &str, text: &str) {
        assert_eq!(findings(path, text), [""; 0], "{text:?}");
    }

    #[test]
    fn names_are_cut_into_their_words() {
        assert_eq!(words_of("take_HTTPLine2"), ["take", "http", "line", "2"]);
        assert_eq!(words_of("STORE_KeptAt"), ["store", "kept", "at"]);
        assert_eq!(words_of("_"), [""; 0]);
    }

    #[test]
    fn a_retired_word_in_a_name_is_caught() {
        caught("src/io/x.rs", "struct LaneState;", "`LaneState`: not `lane` but a connection to the backend");
        caught("src/shard/x.rs", "fn on_told() {}", "`on_told`: not `told`");
        caught("src/shard/x.rs", "struct A { kept_parts: u8 }", "`kept_parts`: not `kept`");
        caught("src/shard/x.rs", "fn f() { let home = 1; }", "not `home` but owner");
        caught("src/io/x.rs", "mod storebox {}", "not `storebox`");
        caught("tests/sim/x.rs", "use a::{Line};", "not `line` but connection, stream or queue");
        caught("bench/load/x.rs", "enum Answer { Asks(Vec<u8>) }", "not `asks`");
        caught("src/io/x.rs", "fn f(outlets: u8) {}", "not `outlet`");
    }

    #[test]
    fn a_retired_word_in_the_name_of_a_file_is_caught() {
        assert!(
            findings("src/io/shelf.rs", "")[0].starts_with("src/io/shelf.rs:1: a file or folder named for `shelf`")
        );
        assert!(findings("src/shard/keeping.rs", "")[0].contains("named for `keeping`"));
        assert!(findings("src/io/lanes/x.rs", "")[0].contains("named for `lane`"));
        assert!(findings("src/shard/words.rs", "")[0].contains("`/words.rs` says nothing"));
        clean("bench/micro/parts.rs", "");
    }

    #[test]
    fn a_retired_type_is_caught_whole() {
        caught("src/shard/x.rs", "pub struct Work;", "`Work` is no type's name; say Command");
        clean("src/shard/x.rs", "pub struct Workers;\nenum Ordering {}\nfn work() {}");
        clean("bench/load/x.rs", "trait Work {}");
    }

    #[test]
    fn words_of_the_field_are_allowed_where_they_belong() {
        clean("src/io/x.rs", "fn f() { text.lines(); str::lines(text); line!(); reader.read_line(&mut text); }");
        clean("src/wire/http1/x.rs", "enum Scan { LineStart, RequestLine }");
        clean("src/io/x.rs", "const A: u16 = CloseCode::TRY_AGAIN_LATER; fn given_up() {}");
        clean("src/io/x.rs", "fn f(config: &Config) { config.store.patience.as_millis(); }");
        clean("src/base/limits.rs", "struct Limits { held_ids_max: usize }");
        clean("src/io/x.rs", "// kept lines of the lane\nconst A: &str = \"told\";");
        caught("src/io/x.rs", "fn f(line: u8) {}", "`line`");
        caught("src/shard/x.rs", "struct A { patience_ms: u64 }", "`patience_ms`");
        caught("src/shard/x.rs", "struct A { held: u64 }", "`held`");
    }

    #[test]
    fn long_names_of_tests_are_sentences() {
        clean("tests/it/x.rs", "fn a_close_is_told_when_the_backend_returns() {}");
        caught("tests/it/x.rs", "fn a_full_lane_gives_the_job_back() {}", "not `lane`");
    }

    #[test]
    fn a_riddle_in_a_comment_is_caught() {
        caught("src/io/x.rs", "/// Whence it came.", "name where it comes from");
        caught("src/io/x.rs", "fn f() {} // what seems to be so already", "is a riddle");
        clean("src/io/x.rs", "// It has been told.");
    }
}
