//! What happened in a world, to see that the worlds are worth living in: a simulation in which nothing goes wrong
//! proves nothing.

use std::collections::BTreeMap;

/// Counters of what happened; `closes` by their code.
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

            pub fn close(&mut self, code: u16) {
                *self.closes.entry(code).or_default() += 1;
            }

            fn never(&self) -> Vec<&'static str> {
                let all = [$((stringify!($name), self.$name)),+];
                all.into_iter().filter(|(_, n)| *n == 0).map(|(name, _)| name).collect()
            }
        }
    };
}

pub(crate) use seen;

seen! {
    events opened abandoned survivors calls handed_down repeats_down answered_up failed forwards_repeated lost paused blocked
    greeted pongs refused_up ids_reused answer_holds rate_paused memory_full frozen vanished floods cut outages stale
    limits_changed stalls mailboxes_full calls_refused sliced_evictions traced counted
}

impl Seen {
    pub fn assert_everything_happened(&self) {
        assert_eq!(self.never(), [""; 0], "never happens");
        for code in [1000, 1001, 1002, 1007, 1008, 1009, 1013, 4001, 4002] {
            assert!(self.closes.contains_key(&code), "nobody is ever closed with {code}");
        }
    }
}
