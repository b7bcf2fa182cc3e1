//! The rule about the other balancers of the group.

use super::Context;
use crate::config::check::rules;
use crate::config::spans::Place;
use crate::group::GroupDigest;

/// A peer that does not answer is no finding: see [`super::super::Host::unseen`].
pub(super) fn check(context: &mut Context<'_>) {
    // A group has to name its seed.
    let Some(seed) = context.config.node.seed else {
        return;
    };
    let here = GroupDigest::of(context.config, &seed, None);
    let host = context.host;
    for (peer, digest) in &host.peers {
        let Ok(there) = digest else {
            continue;
        };
        let differences = here.differences(there);
        if differences.is_empty() {
            continue;
        }
        let message = format!("peer {peer} {}", differences.join("; "));
        let place = Place::Node("peers");
        context.report(&rules::PEER_DIGEST, place, message, |finding| {
            finding.help(
                "bring the same file into force on both; until then a flow that moves between \
                 them may change its backend",
            )
        });
    }
}
