//! `GET /sessions/`: the durable sessions of all nodes as a list, a page at a time.
//!
//! Every worker walks over its sessions in slices, and names the first ones as far as the page reaches; that is
//! bounded, and who wants more says what the name contains.

use super::pages::note_unreachable;
use super::query::{self, Reach};
use crate::cluster::calls::Call;
use crate::io::http::response::Response;
use crate::io::worker::calls::gather::Gathered;
use crate::io::worker::turn::Worker;
use crate::policy::api::{NAME_BYTES_MAX, Refusal, SESSIONS_LISTED_MAX, outcome};
use crate::shard::{Query, Reply, SessionOrder, SessionState, SessionSummary, WantedSessions};
use crate::wire::http1::query_get;
use serde_json::{Value, json};
use std::sync::Arc;

/// A page of the sessions that the query means.
pub async fn list(worker: &Worker, query: &str) -> Result<Response, Refusal> {
    let Page { wanted, offset, limit } = read(query)?;
    if !worker.store().has_store() {
        return Err(Refusal::NoStoreForSessions);
    }
    let call = Call::Sessions(Box::new(wanted.clone()));
    let listed = Query::Sessions { wanted: Arc::new(wanted.clone()) };
    let gathered = query::look_everywhere(worker, Reach::Cluster, listed, &call).await?;
    let Gathered { reply, silent, unreachable, .. } = gathered;
    let (total, mut sessions) = reply.map_or(Ok((0, Vec::new())), outcome::sessions)?;
    wanted.merge(&mut sessions);
    let page: Vec<Value> = sessions.iter().skip(offset).map(shown).collect();
    let mut body = json!({"status": 0, "total": total, "offset": offset, "limit": limit, "sessions": page});
    if silent > 0 {
        (body["status"], body["msg"]) = (1.into(), Refusal::NoAnswerInTime.to_string().into());
    }
    note_unreachable(&mut body, unreachable);
    Ok(Response::json(body.to_string().into_bytes()))
}

/// Those of this node, for another one.
pub async fn list_here(worker: &Worker, wanted: Arc<WantedSessions>) -> Result<Reply, Refusal> {
    let listed = Query::Sessions { wanted: wanted.clone() };
    let Gathered { reply, silent, .. } = query::look_here(worker, listed).await?;
    if silent > 0 {
        return Err(Refusal::NoAnswerInTime);
    }
    let (total, mut sessions) = reply.map_or(Ok((0, Vec::new())), outcome::sessions)?;
    wanted.merge(&mut sessions);
    Ok(Reply::Sessions { total, sessions })
}

#[derive(Debug, PartialEq)]
struct Page {
    wanted: WantedSessions,
    offset: usize,
    limit: usize,
}

fn read(query: &str) -> Result<Page, Refusal> {
    let state = match query_get(query, "state").as_deref() {
        None | Some("") => SessionState::Any,
        Some("online") => SessionState::Online,
        Some("away") => SessionState::Away,
        Some("waiting") => SessionState::Waiting,
        Some(_) => return Err(Refusal::BadState),
    };
    let order = match query_get(query, "order").as_deref() {
        None | Some("" | "name") => SessionOrder::Name,
        Some("oldest") => SessionOrder::Oldest,
        Some(_) => return Err(Refusal::BadOrder),
    };
    let find: Box<str> = query_get(query, "find").unwrap_or_default().into();
    let number = |name: &str, default: usize| query_get(query, name).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (offset, limit) = (number("offset", 0), number("limit", PAGE));
    let most = offset.saturating_add(limit);
    if most > SESSIONS_LISTED_MAX {
        return Err(Refusal::PageTooDeep);
    }
    if find.len() > NAME_BYTES_MAX {
        return Err(Refusal::BadSession);
    }
    Ok(Page { wanted: WantedSessions { state, order, find, most }, offset, limit })
}

fn shown(session: &SessionSummary) -> Value {
    let SessionSummary { name, identity, user, waiting, waiting_bytes, oldest_ms, left_ms } = session;
    json!({
        "session": &**name,
        "user": user,
        "online": identity.is_some(),
        "identity": identity.map(|identity| identity.to_string()),
        "waiting": waiting,
        "waiting_bytes": waiting_bytes,
        "oldest_s": oldest_ms.map(|ms| ms / 1000),
        "expires_s": left_ms.map(|ms| ms / 1000),
    })
}

const PAGE: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_one_too_deep_is_refused() {
        let page = read("state=away&order=oldest&find=ann&offset=20&limit=10").expect("a page");
        let wanted =
            WantedSessions { state: SessionState::Away, order: SessionOrder::Oldest, find: "ann".into(), most: 30 };
        assert_eq!(page, Page { wanted, offset: 20, limit: 10 });
        assert_eq!(read("").expect("a page").limit, PAGE);
        for (query, refusal) in [
            ("state=gone", Refusal::BadState),
            ("order=age", Refusal::BadOrder),
            ("offset=18446744073709551615", Refusal::PageTooDeep),
            ("offset=4999&limit=2", Refusal::PageTooDeep),
        ] {
            assert_eq!(read(query), Err(refusal), "{query}");
        }
        assert!(read("offset=4999&limit=1").is_ok());
    }
}
