//! Connections refused by the limits of the process. Every worker counts here, seldom: an addition is a locked
//! instruction.

use super::counter::SharedCounter;
use super::figure::figures;

figures! {
    pub struct AdmissionMetrics {
        /// Connections refused at connections_max (503).
        refused_full: SharedCounter in "connections_refused" reason "full",
        /// Connections refused at connections_per_address (429).
        refused_address: SharedCounter in "connections_refused" reason "address",
        /// Connections closed at accept at handshakes_max (503).
        handshakes_refused: SharedCounter in "connections_refused" reason "handshakes",
        /// Connections closed at accept at handshakes_per_address (429).
        handshakes_refused_address: SharedCounter in "connections_refused" reason "handshakes_address",
    }
}
