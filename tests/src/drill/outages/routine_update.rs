//! A routine update of the load balancer sent too much to a single server.

use balancer_user::watch::Kind;

use crate::drill::script::Mark::{Detected, Named, Resolved};
use crate::drill::script::{Change, Fault, PLAIN, Postmortem, Script, at, marked, own};
use crate::lab::server;

/// The server that is slow after its update.
const BAD: usize = 1;

pub(super) static SCRIPT: Script = Script {
    name: "routine-update",
    title: "Routine update",
    postmortem: Postmortem {
        date: "2024-06-01",
        impact: "the application was down for about 95 % of its users",
        cause: "a routine update of the load balancer sent an excess of requests to a single server; it failed, and the others after it",
        events: &[
            marked(0, Detected, "an alert shows far fewer good answers"),
            at(5, "web servers are searched"),
            at(15, "their logs show nothing"),
            at(30, "databases are searched, as there are more queries"),
            at(60, "nothing is found there; the network team is called"),
            at(75, "the load balancer's log looks strange"),
            marked(90, Named, "its configuration is found to be the cause"),
            at(105, "it is corrected"),
            at(120, "the service gets better"),
            marked(150, Resolved, "the service is whole again"),
        ],
    },
    setting: PLAIN,
    change: Change {
        what: "an update of the file in which three backends of four are missing",
        backends: &[own(0, 100)],
        stopped_by: &[&["blast-radius"]],
        undone_because: "service web: backend web-1 gets 100.0 % of the traffic",
    },
    fault: Fault {
        what: "a server is slow after an update of its own: each answer takes 300 ms longer",
        bring: |scene| scene.servers[BAD].set(Some(server::Fault::Slow)),
        named: &[(Kind::Slow, BAD)],
        words: &["is slow", "the table is right"],
        remedy: "balancer backend drain web BACKEND",
    },
};
