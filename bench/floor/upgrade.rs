//! Accept and upgrade: the loop does both; there is nothing else to do until the client closes.

use super::turn::Floor;

pub struct Upgrade;

impl Floor for Upgrade {}
