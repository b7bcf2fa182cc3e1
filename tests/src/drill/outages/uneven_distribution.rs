//! A misconfiguration spread traffic unevenly, and servers were overwhelmed.

use balancer_user::watch::Kind;

use crate::drill::script::Mark::{Detected, Named, Resolved};
use crate::drill::script::{Change, Fault, PLAIN, Postmortem, Script, Setting, at, marked, own};
use crate::tamper::Kernel;

pub(super) static SCRIPT: Script = Script {
    name: "uneven-distribution",
    title: "Uneven distribution",
    postmortem: Postmortem {
        date: "2024-05-10",
        impact: "the application was down for about 85 % of its users",
        cause: "a wrong load-balancer configuration spread traffic unevenly and overwhelmed servers",
        events: &[
            marked(
                0,
                Detected,
                "engineers are told of slow answers (an alert was there before)",
            ),
            at(5, "application servers and databases are searched"),
            at(25, "they are tuned, and nothing changes"),
            marked(
                55,
                Named,
                "the load balancer's configuration is found to be the cause",
            ),
            at(70, "the network team is called"),
            at(85, "the configuration is corrected"),
            at(115, "traffic becomes normal"),
            marked(145, Resolved, "the service is whole again"),
        ],
    },
    setting: Setting {
        service_keys: "peak_flows_per_second = 1000\n",
        capacity: Some(400),
        ..PLAIN
    },
    change: Change {
        what: "weights of 600, 200, 100 and 100 instead of 100 each: one server of four, made \
               for 400 flows a second, is to get 600 at the peak",
        backends: &[own(0, 600), own(1, 200), own(2, 100), own(3, 100)],
        stopped_by: &[&["capacity"]],
        undone_because: "service web: backend web-1 gets 60.",
    },
    fault: Fault {
        what: "something else on the host writes to the kernel's table: seven slots of ten become \
               one server's",
        bring: |scene| Kernel::of(&scene.balancer)?.change_slots_of(6),
        named: &[(Kind::Drift, 2)],
        words: &[
            "what nobody wrote",
            "something else than the balancer writes",
        ],
        remedy: "balancer verify",
    },
};
