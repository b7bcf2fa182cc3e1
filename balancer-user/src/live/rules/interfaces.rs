//! Rules about the interfaces that the program is attached to.

use balancer_common::layout::LAYOUT_VERSION;

use super::super::host::{Host, Interface, Program};
use super::Context;
use crate::config::check::rules;
use crate::config::diagnostic::Level;
use crate::config::model::XdpMode;
use crate::config::spans::Place;
use crate::netlink::AttachedMode;

const PLACE: Place = Place::Node("interfaces");

/// What native XDP keeps free in a frame's page: headroom for the program
/// (`XDP_PACKET_HEADROOM`), and `struct skb_shared_info` behind the frame.
const PAGE_OVERHEAD: u32 = 256 + 320;
const ETHERNET_HEADER: u32 = 14;

/// How the program runs, or would run, on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Native,
    Generic,
    /// A start would be refused.
    Neither,
}

pub(super) fn check(context: &mut Context<'_>) {
    let host = context.host;
    layout(context);
    for name in &context.config.node.interfaces {
        let Some(interface) = host.interfaces.get(name) else {
            let message = format!("interface {name} does not exist");
            context.report(&rules::MISSING_INTERFACE, PLACE, message, |finding| {
                finding.help("see `ip link`; a first start is refused without it")
            });
            continue;
        };
        if !interface.up {
            let message = format!("interface {name} is down");
            context.report(&rules::MISSING_INTERFACE, PLACE, message, |finding| {
                let help = format!("bring it up: `ip link set {name} up`");
                finding.level(Level::Warning).help(help)
            });
        }
        bonded(context, name, interface);
        foreign(context, name, interface);
        let hook = mode(context, name, interface);
        offloads(context, name, interface, hook);
    }
}

fn layout(context: &mut Context<'_>) {
    let Some(version) = context.host.other_layout else {
        return;
    };
    let message = format!(
        "tables of layout version {version} forward now under {}, and this build reads version \
         {LAYOUT_VERSION} only",
        context.config.node.pin_dir.display()
    );
    context.report(
        &rules::OTHER_LAYOUT,
        Place::Node("pin_dir"),
        message,
        |finding| {
            finding.help(
                "go on with the build that wrote them, or have them replaced in a calm hour: `run \
             --replace-tables`",
            )
        },
    );
}

fn bonded(context: &mut Context<'_>, name: &str, interface: &Interface) {
    let Some(bond) = &interface.bond else {
        return;
    };
    let message = format!(
        "interface {name} is a port of {bond}: packets that come in on its other ports would \
         not be balanced"
    );
    context.report(&rules::BOND_PORT, PLACE, message, |finding| {
        finding.help(format!(
            "name {bond} instead: the kernel runs the program on each of its ports"
        ))
    });
}

fn foreign(context: &mut Context<'_>, name: &str, interface: &Interface) {
    let Some(Program {
        id,
        ours: Some(false),
        ..
    }) = interface.program
    else {
        return;
    };
    let message = format!("interface {name} runs another XDP program (id {id})");
    context.report(&rules::FOREIGN_XDP, PLACE, message, |finding| {
        finding.help(format!(
            "see `bpftool prog show id {id}`; detach it, or stop the balancer that it is of"
        ))
    });
}

/// The longest packet that native XDP takes without programs of several
/// buffers. Drivers may have a lower limit, none has a higher one.
fn native_mtu(host: &Host) -> u32 {
    host.page_len
        .saturating_sub(PAGE_OVERHEAD + ETHERNET_HEADER)
}

fn mode(context: &mut Context<'_>, name: &str, interface: &Interface) -> Hook {
    let wanted = context.config.node.xdp_mode;
    if wanted == XdpMode::Generic {
        return Hook::Generic;
    }
    let place = match context.spans.has_key(Place::Node("xdp_mode")) {
        true => Place::Node("xdp_mode"),
        false => PLACE,
    };
    let refused = wanted == XdpMode::Native;
    let (level, hook) = match refused {
        true => (Level::Error, Hook::Neither),
        false => (Level::Warning, Hook::Generic),
    };
    let and_so = match refused {
        true => "xdp_mode = \"native\" refuses to start",
        false => "the generic hook is used, at a fraction of the speed",
    };
    let limit = native_mtu(context.host);
    let (message, help) = match interface.program {
        Some(program) if program.ours == Some(true) => {
            if program.mode != AttachedMode::Generic {
                return Hook::Native;
            }
            let message = format!(
                "interface {name}: this balancer's program runs in the generic hook, at a \
                 fraction of the speed"
            );
            let help = "see the log of its start; `balancer unload` and a new start try again";
            context.report(&rules::XDP_MODE, place, message, |finding| {
                finding.level(Level::Warning).help(help)
            });
            return Hook::Generic;
        }
        _ if interface.native_xdp == Some(false) => (
            format!("interface {name}: its driver has no native XDP, so {and_so}"),
            "name an interface whose driver has it, or say `xdp_mode = \"generic\"`".to_owned(),
        ),
        _ if interface.native_xdp == Some(true) && interface.mtu > limit => (
            format!(
                "interface {name}: its MTU is {}, and native XDP takes {limit} at most, so {and_so}",
                interface.mtu
            ),
            format!(
                "lower it: `ip link set {name} mtu {limit}`, or less where the driver asks for it"
            ),
        ),
        _ => return Hook::Native,
    };
    context.report(&rules::XDP_MODE, place, message, |finding| {
        finding.level(level).help(help)
    });
    hook
}

fn offloads(context: &mut Context<'_>, name: &str, interface: &Interface, hook: Hook) {
    if interface.lro {
        let message = format!(
            "interface {name}: LRO is on, so packets come merged from several, too long to be \
             forwarded"
        );
        context.report(&rules::OFFLOADS, PLACE, message, |finding| {
            finding.help(format!("switch it off: `ethtool -K {name} lro off`"))
        });
    }
    if interface.gro && hook == Hook::Generic {
        let message = format!(
            "interface {name}: GRO is on, and in generic mode the program sees what it merged, \
             too long to be forwarded"
        );
        context.report(&rules::OFFLOADS, PLACE, message, |finding| {
            finding.help(format!("switch it off: `ethtool -K {name} gro off`"))
        });
    }
    if let (true, Some(vlan)) = (interface.vlan_stripping, interface.vlans.first()) {
        let message = format!(
            "interface {name}: VLAN stripping is on and {vlan} uses VLANs: the program would not \
             see the tag, and would send packets on without it"
        );
        context.report(&rules::OFFLOADS, PLACE, message, |finding| {
            let help = format!("switch it off: `ethtool -K {name} rxvlan off`");
            finding.level(Level::Warning).help(help)
        });
    }
}
