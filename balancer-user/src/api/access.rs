//! Who may ask what on the control socket.
//!
//! Root and the daemon's own user may do all, members of `node.change_group`
//! likewise, members of `node.read_group` may read what holds no secret. It is
//! judged by the kernel's word on who opened the connection and by the host's
//! lists of groups; that the socket can be opened is not enough. What is not
//! named here as reading is changing.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use nix::unistd::{Gid, Group, Uid, User, chown, getgrouplist};

use super::peer::Peer;
use super::server::answer;
use super::types::Problem;

/// As much of a path is told to who may not ask for it, and to the log.
const MAX_SHOWN: usize = 100;
/// Between two refusals that are said.
const PAUSE: Duration = Duration::from_secs(1);

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Asks only, and no secret is in the answer.
    Read,
    /// Changes something, or shows or uses what only its owners may.
    Change,
}

impl Access {
    /// What a request needs.
    ///
    /// A plan changes nothing, but has the daemon probe what its file names; the
    /// configuration has the seed and the receivers' URLs in it; a capture shows
    /// what clients send, and swaps the program in the packet path.
    pub fn needed(method: &Method, path: &str) -> Self {
        match (method.as_str(), path) {
            (
                "GET" | "HEAD",
                "/v1/status" | "/v1/events" | "/v1/revisions" | "/v1/openapi.json",
            ) => Self::Read,
            ("POST", "/v1/explain" | "/v1/verify") => Self::Read,
            _ => Self::Change,
        }
    }
}

/// The groups that are let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doors {
    read: Option<Door>,
    change: Option<Door>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Door {
    name: String,
    group: Gid,
}

impl Doors {
    /// For the groups of these names.
    ///
    /// # Errors
    /// There is no such group.
    pub fn new(read: Option<&str>, change: Option<&str>) -> Result<Self, String> {
        let door = |key: &str, name: Option<&str>| {
            let Some(name) = name else {
                return Ok(None);
            };
            match Group::from_name(name) {
                Ok(Some(group)) => Ok(Some(Door {
                    name: name.to_owned(),
                    group: group.gid,
                })),
                Ok(None) => Err(format!(
                    "node.{key} {name}: there is no such group on this host; make it with \
                     `groupadd --system {name}`, or leave the key out"
                )),
                Err(error) => Err(format!(
                    "node.{key} {name}: the groups cannot be read: {error}"
                )),
            }
        };
        Ok(Self {
            read: door("read_group", read)?,
            change: door("change_group", change)?,
        })
    }

    /// Lets those open the socket who may ask something there. A file has one
    /// group only: where there are two, everybody may, and is judged then.
    ///
    /// # Errors
    /// The socket's owner or mode cannot be set.
    pub fn open(&self, socket: &Path) -> io::Result<()> {
        let (group, mode) = match (&self.read, &self.change) {
            (None, None) => (None, 0o600),
            (Some(one), None) | (None, Some(one)) => (Some(one.group), 0o660),
            (Some(one), Some(other)) if one == other => (Some(one.group), 0o660),
            (Some(_), Some(_)) => (None, 0o666),
        };
        if group.is_some() {
            chown(socket, None, group)?;
        }
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode))
    }

    /// What a peer may; none if nothing. Asks the host's lists of users and
    /// groups, which may take a while.
    fn access(&self, peer: Peer) -> Option<Access> {
        if peer.uid == 0 || peer.uid == nix::unistd::geteuid().as_raw() {
            return Some(Access::Change);
        }
        let groups = groups_of(peer);
        let is_in = |door: &Option<Door>| {
            let door = door.as_ref();
            door.is_some_and(|door| groups.contains(&door.group))
        };
        match (is_in(&self.change), is_in(&self.read)) {
            (true, _) => Some(Access::Change),
            (false, true) => Some(Access::Read),
            (false, false) => None,
        }
    }

    fn judge(&self, peer: Peer, method: &Method, path: &str) -> Result<(), Problem> {
        let needed = Access::needed(method, path);
        let has = self.access(peer);
        if has >= Some(needed) {
            return Ok(());
        }
        let group = |door: &Option<Door>, key: &str| match door {
            Some(door) => format!("group {} (node.{key})", door.name),
            None => format!("a group that node.{key} may name"),
        };
        let change = group(&self.change, "change_group");
        let (may, who) = match needed {
            Access::Read => {
                let read = group(&self.read, "read_group");
                (
                    "ask that",
                    format!("root, members of {read} and of {change}"),
                )
            }
            Access::Change if has.is_some() => (
                "do that: it changes something or shows a secret",
                format!("root and members of {change}"),
            ),
            Access::Change => ("do that", format!("root and members of {change}")),
        };
        let shown: String = path.chars().take(MAX_SHOWN).collect();
        let detail = format!("{method} {shown}: user {peer} may not {may}; {who} may");
        Err(Problem::new("forbidden", 403, detail))
    }
}

/// The group that the peer ran with, and those that its user is a member of.
fn groups_of(peer: Peer) -> Vec<Gid> {
    let mut groups = vec![Gid::from_raw(peer.gid)];
    let user = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten();
    let name = user
        .as_ref()
        .and_then(|user| CString::new(user.name.as_str()).ok());
    if let (Some(user), Some(name)) = (user, name) {
        groups.extend(getgrouplist(&name, user.gid).unwrap_or_default());
    }
    groups
}

/// Refusals that are said, one a second: whoever may open the socket is not to
/// fill the log.
#[derive(Debug)]
struct Said(Mutex<(Option<Instant>, u64)>);

static REFUSED: Said = Said(Mutex::new((None, 0)));

impl Said {
    /// Says it, with how many were not said before it, or counts it.
    fn say(&self, now: Instant, say: impl FnOnce(u64)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, not_said) = &mut *state;
        let is_soon = last.is_some_and(|it| now.saturating_duration_since(it) < PAUSE);
        if is_soon {
            *not_said += 1;
            return;
        }
        *last = Some(now);
        say(std::mem::take(not_said));
    }
}

/// Refuses who may not.
pub(super) async fn guard(
    State(doors): State<Doors>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    // Root is let in without a look at lists that may be elsewhere.
    if peer.uid != 0 {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let judged = tokio::task::spawn_blocking(move || doors.judge(peer, &method, &path)).await;
        let refusal = match judged {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(error) => Some(Problem::new("not available", 503, error.to_string())),
        };
        if let Some(problem) = refusal {
            REFUSED.say(Instant::now(), |not_said| {
                tracing::warn!(%peer, detail = %problem.detail, not_said, "refused");
            });
            return answer::<()>(Err(problem));
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody of that number is on any host.
    const STRANGER: u32 = 3_999_999_999;

    fn doors(read: u32, change: u32) -> Doors {
        let door = |name: &str, group| {
            Some(Door {
                name: name.to_owned(),
                group: Gid::from_raw(group),
            })
        };
        Doors {
            read: door("readers", read),
            change: door("operators", change),
        }
    }

    fn peer(uid: u32, gid: u32) -> Peer {
        Peer {
            uid,
            gid,
            pid: None,
        }
    }

    #[test]
    fn reader_may_read_and_not_change_and_a_stranger_nothing() {
        let doors = doors(3_000_001, 3_000_002);
        let may = |gid, method: Method, path| doors.judge(peer(STRANGER, gid), &method, path);
        let (reader, operator) = (3_000_001, 3_000_002);
        for path in ["/v1/status", "/v1/events", "/v1/revisions"] {
            assert_eq!(may(reader, Method::GET, path), Ok(()));
            assert_eq!(may(operator, Method::GET, path), Ok(()));
            assert_eq!(may(7, Method::GET, path).unwrap_err().status, 403);
        }
        for (method, path) in [
            (Method::POST, "/v1/changes"),
            (Method::POST, "/v1/apply"),
            (Method::POST, "/v1/plan"),
            (Method::POST, "/v1/capture"),
            (Method::POST, "/v1/capture/stop"),
            (Method::GET, "/v1/config"),
            (Method::GET, "/v1/revisions/1"),
            (Method::POST, "/v1/status"),
            (Method::GET, "/v1/what-comes-later"),
        ] {
            let refusal = may(reader, method.clone(), path).unwrap_err();
            assert_eq!(refusal.status, 403, "{path}");
            assert!(
                refusal.detail.contains("group operators"),
                "{}",
                refusal.detail
            );
            assert_eq!(may(operator, method, path), Ok(()));
        }
    }

    #[test]
    fn without_groups_root_alone_may() {
        let doors = Doors::new(None, None).unwrap();
        assert_eq!(doors.access(peer(0, 0)), Some(Access::Change));
        assert_eq!(doors.access(peer(STRANGER, 0)), None);
    }

    #[test]
    fn refusals_are_said_once_a_second_and_the_others_counted() {
        let refused = Said(Mutex::new((None, 0)));
        let began = Instant::now();
        let mut said = Vec::new();
        for millis in [0, 1, 999, 1000, 1001, 5000] {
            let now = began + Duration::from_millis(millis);
            refused.say(now, |not_said| said.push((millis, not_said)));
        }
        assert_eq!(said, [(0, 0), (1000, 2), (5000, 1)]);
    }

    #[test]
    fn group_that_is_not_there_is_named_with_the_way_out() {
        let error = Doors::new(Some("no-such-group"), None).unwrap_err();
        assert!(error.contains("node.read_group no-such-group"), "{error}");
        assert!(error.contains("groupadd"), "{error}");
    }
}
