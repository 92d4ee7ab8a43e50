//! Who a client is: its connection's user, and its session's. Memory holds the name twice: in the connection, for hooks
//! and lists, and as a membership, which is what messages go by and what the store keeps.

use super::channels::replace_users;
use super::scope::Scope;
use crate::base::id::ConnIndex;
use crate::shard::channel::user::{channel_of, user_of};
use crate::shard::ids::SessionIndex;
use std::rc::Rc;

/// The business server lets the connection in as this user. Its session, if it is to have one, is not attached yet.
pub fn set_user(scope: &mut Scope<'_>, conn: ConnIndex, user: &str) {
    scope.conns.set_user(conn, Some(user.into()));
    let change = scope.channels.join(conn.into(), scope.conns.joined_mut(conn), &channel_of(user));
    scope.cx.presence(change, true);
}

/// The user that the business server has named is the session's from now on; where it has named none, the session's is
/// the connection's. The connection's channels are the session's already.
pub fn share_user(scope: &mut Scope<'_>, conn: ConnIndex, index: SessionIndex) {
    let session = scope.sessions.table.at(index);
    let Some(user) = scope.conns.user(conn).cloned() else {
        let user = scope.channels.joined_names(&session.joined).find_map(user_of).map(Rc::from);
        return scope.conns.set_user(conn, user);
    };
    // What an earlier connection still forwards is the session's too.
    if let Some(uplink_conn) = session.uplink_conn {
        scope.conns.set_user(uplink_conn, Some(user.clone()));
    }
    replace_users(scope, index, &user);
}
