//! What happened in the worlds of sessions: where nothing goes wrong nothing is proved.

use crate::seen::seen;
use std::collections::BTreeMap;

seen! {
    events attached resumed attach_refused anew crashes stops cut vanished frozen forgot died troubles outages fell_back
    torn refusals known_claims expired_messages expired_sessions dropped_sessions calls calls_retried answered_calls
    stored refused undecided calls_refused receipts handed repeats_down marked_first released spoken repeats_up
    answered_up pongs refused_up clock_steps forwards_failed deduplicated paused channels_sure
}

impl Seen {
    pub fn assert_everything_happened(&self) {
        assert_eq!(self.never(), [""; 0], "never happens");
        for code in [1001, 4000, 4409, 4510] {
            assert!(self.closes.contains_key(&code), "nobody is ever closed with {code}");
        }
    }
}
