//! One server got the majority of the traffic while others stood idle.

use balancer_user::watch::Kind;

use crate::drill::script::Mark::{Detected, Named, Resolved};
use crate::drill::script::{Change, Fault, PLAIN, Postmortem, Script, Setting, at, marked, own};
use crate::tamper::Kernel;

pub(super) static SCRIPT: Script = Script {
    name: "one-server-overwhelmed",
    title: "One server overwhelmed",
    postmortem: Postmortem {
        date: "2023-06-10",
        impact: "the platform was down for about 90 % of its users",
        cause: "the load balancer gave one server the majority of the requests and left the others idle",
        events: &[
            marked(0, Detected, "an alert shows more errors and fewer requests"),
            at(
                10,
                "a recent deployment is suspected; network and databases are searched (times are not given)",
            ),
            at(60, "senior engineers are called (the time is not given)"),
            marked(
                120,
                Named,
                "the load balancer's configuration is found to be the cause",
            ),
            marked(
                180,
                Resolved,
                "it is corrected, services are restarted; the outage counts until minute 240",
            ),
        ],
    },
    setting: Setting {
        // Somebody looks at differences before they are put right.
        node_keys: "repair_drift = false\n",
        ..PLAIN
    },
    change: Change {
        what: "a weight of 1000 for one backend and of 1 for the three others",
        backends: &[own(0, 1000), own(1, 1), own(2, 1), own(3, 1)],
        stopped_by: &[&["blast-radius"]],
        undone_because: "service web: backend web-1 gets 99.",
    },
    fault: Fault {
        what: "something else on the host gives one server all slots of the kernel's table, and \
               the file says `repair_drift = false`",
        bring: |scene| Kernel::of(&scene.balancer)?.change_slots(),
        named: &[(Kind::Drift, 2)],
        words: &[
            "what nobody wrote",
            "something else than the balancer writes",
        ],
        remedy: "balancer verify --repair",
    },
};
