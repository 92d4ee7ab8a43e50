//! `GET /info/history/`: the past of the figures of this node, as JSON.
//!
//! Copies what it needs from the `History` of the process, then writes it: the main thread waits for the lock.

use crate::io::http::response::Response;
use crate::io::runtime::clock;
use crate::io::worker::turn::Worker;
use crate::metrics::history::{HistoryFigure, Merge, Span, View};
use crate::policy::api::Refusal;
use crate::wire::http1::query_get;
use serde::Serialize;
use std::collections::BTreeMap;

/// The body of the answer.
#[derive(Serialize)]
struct Past {
    status: u8,
    /// This life of this node: a restart loses the past.
    node: String,
    interval_ms: u64,
    /// The number of the last point.
    last: u64,
    /// When the last point ends; that of a day may not be over.
    end_unix_ms: u64,
    /// How much time each point covers; 0 is a gap.
    covers_ms: Vec<u32>,
    /// Without those that are always 0.
    figures: BTreeMap<&'static str, Vec<u64>>,
    /// Only of the whole past: a page knows them then.
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<BTreeMap<&'static str, Known>>,
}

#[derive(Serialize)]
struct Known {
    help: &'static str,
    merge: &'static str,
}

/// `span=hour` or `day`; with `after` only the points behind that one.
pub fn history(worker: &Worker, query: &str) -> Result<Response, Refusal> {
    let span = match query_get(query, "span").as_deref() {
        None | Some("hour") => Span::Hour,
        Some("day") => Span::Day,
        Some(_) => return Err(Refusal::BadSpan),
    };
    let after: Option<u64> = query_get(query, "after").and_then(|after| after.parse().ok());
    let shared = worker.shared();
    let (view, known) = {
        let history = shared.history();
        let known = after.is_none().then(|| history.figures().iter().map(known).collect());
        (history.view(span, after.unwrap_or_default()), known)
    };
    let View { interval_ms, last, covers_ms, figures } = view;
    let past = Past {
        status: 0,
        node: shared.node().to_string(),
        interval_ms,
        last,
        end_unix_ms: (clock::unix_ms().0 + last * interval_ms).saturating_sub(clock::monotonic().0),
        covers_ms,
        figures: figures.into_iter().map(|(figure, points)| (figure.name, points)).collect(),
        known,
    };
    Ok(Response::json(serde_json::to_vec(&past).expect("numbers and texts are JSON")))
}

fn known(figure: &HistoryFigure) -> (&'static str, Known) {
    let merge = match figure.merge {
        Merge::Sum => "sum",
        Merge::Max => "max",
    };
    (figure.name, Known { help: figure.help, merge })
}
