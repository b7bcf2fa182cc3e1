//! Requests were routed to where nobody served them.

use std::net::IpAddr;

use balancer_user::watch::Kind;

use crate::drill::script::Mark::{Detected, Named, Resolved};
use crate::drill::script::{
    Change, Fault, PLAIN, Postmortem, Script, Setting, at, elsewhere, marked, own,
};
use crate::lab::link;

/// The backend that loses the service's address.
const BAD: usize = 2;

pub(super) static SCRIPT: Script = Script {
    name: "improper-routing",
    title: "Improper routing",
    postmortem: Postmortem {
        date: "2024-05-12",
        impact: "the website was slow or away, on and off, for about 30 % of its users",
        cause: "wrong routing rules in the load balancer sent requests where they were not served",
        events: &[
            marked(0, Detected, "an alert shows slow answers"),
            at(
                10,
                "application servers are searched, as they were updated lately",
            ),
            at(
                30,
                "nothing is found there; the network and the load balancer are looked at",
            ),
            marked(
                60,
                Named,
                "the load balancer's log shows wrong routing rules",
            ),
            at(90, "databases are searched"),
            at(120, "network engineers are called"),
            marked(150, Resolved, "the configuration is corrected"),
        ],
    },
    setting: Setting {
        others: (1, ""),
        ..PLAIN
    },
    change: Change {
        what: "one backend of four gets the address of a host that serves nothing",
        backends: &[own(0, 100), own(1, 100), own(2, 100), elsewhere(3, 4)],
        stopped_by: &[&["unproven-backend"]],
        undone_because: "not proven in time: service web: backend web-4 at",
    },
    fault: Fault {
        what: "a server loses the service's address; its probes, sent to its own, still pass",
        bring: |scene| {
            let vip = IpAddr::V4(scene.lab.vip_v4());
            link::remove_address(scene.lab.backend(BAD).namespace(), "lo", vip)
        },
        named: &[(Kind::Handshakes, BAD)],
        words: &["does not finish handshakes", "its probes pass"],
        remedy: "balancer backend drain web BACKEND",
    },
};
