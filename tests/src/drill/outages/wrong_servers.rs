//! Traffic was routed to an incorrect set of servers.

use balancer_user::watch::Kind;

use crate::drill::scene::foreign;
use crate::drill::script::Mark::{Detected, Named, Resolved};
use crate::drill::script::{
    Change, Fault, PLAIN, Postmortem, Script, Setting, at, elsewhere, marked,
};
use crate::lab::server::Nginx;

/// The backends whose addresses another service's servers get.
const TAKEN: [usize; 2] = [1, 2];

pub(super) static SCRIPT: Script = Script {
    name: "wrong-servers",
    title: "Wrong servers",
    postmortem: Postmortem {
        date: "2023-12-07",
        impact: "nobody could log in",
        cause: "the load balancer routed logins to an incorrect set of servers",
        events: &[
            marked(0, Detected, "monitoring shows errors of the login service"),
            at(5, "a database or a deployment is suspected"),
            at(30, "both are searched"),
            at(105, "the network team is called"),
            marked(
                150,
                Named,
                "the cause is found, and traffic is led to the right servers",
            ),
            marked(195, Resolved, "users can log in again"),
        ],
    },
    setting: Setting {
        service: "login",
        others: (4, "intranet"),
        has_pool: true,
        ..PLAIN
    },
    change: Change {
        what: "the addresses of another service's servers, which answer all that they are asked",
        backends: &[
            elsewhere(0, 4),
            elsewhere(1, 5),
            elsewhere(2, 6),
            elsewhere(3, 7),
        ],
        stopped_by: &[
            &["backend-outside-pool"],
            &["blast-radius", "unproven-backend"],
        ],
        undone_because: "not proven in time: service login: backend login-1 at",
    },
    fault: Fault {
        what: "servers of another service get the addresses of two of the four backends",
        bring: |scene| {
            for number in TAKEN {
                scene.servers[number].nginx.server.stop()?;
                let host = scene.lab.backend(number).namespace();
                let server = Nginx::start(host, &foreign("intranet", number))?;
                scene.others.push(server);
            }
            Ok(())
        },
        named: &[(Kind::BackendDown, TAKEN[0]), (Kind::BackendDown, TAKEN[1])],
        words: &["is down", "x-service", "intranet"],
        remedy: "balancer backend drain login BACKEND",
    },
};
