//! What happened in the worlds of sessions: where nothing goes wrong nothing is proved.

use std::collections::BTreeMap;

macro_rules! seen {
    ($($name:ident)+) => {
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Seen {
            $(pub $name: u64,)+
            closes: BTreeMap<u16, u64>,
        }

        impl Seen {
            pub fn add(&mut self, other: &Seen) {
                $(self.$name += other.$name;)+
                for (code, count) in &other.closes {
                    *self.closes.entry(*code).or_default() += count;
                }
            }

            fn never(&self) -> Vec<&'static str> {
                let all = [$((stringify!($name), self.$name)),+];
                all.into_iter().filter(|(_, n)| *n == 0).map(|(name, _)| name).collect()
            }
        }
    };
}

seen! {
    events attached resumed attach_refused anew crashes stops cut vanished frozen forgot died troubles outages fell_back
    torn refusals known_claims expired_messages expired_sessions dropped_sessions calls called_again answered_calls
    stored refused calls_refused receipts handed repeats_down marked_first released spoken repeats_up answered_up
    forwards_failed deduplicated paused channels_sure
}

impl Seen {
    pub fn close(&mut self, code: u16) {
        *self.closes.entry(code).or_default() += 1;
    }

    pub fn assert_everything_happened(&self) {
        assert_eq!(self.never(), [""; 0], "never happens");
        for code in [1001, 4000, 4409, 4510] {
            assert!(self.closes.contains_key(&code), "nobody is ever closed with {code}");
        }
    }
}
