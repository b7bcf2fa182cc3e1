//! Every rule there is: its id, its level and what it is for.
//!
//! An id is a contract: files name it under `allow`, scripts read it in the
//! JSON and SARIF output. Rules that look at the host or at the running
//! revision stand here too, so that a file may allow them.

use super::super::diagnostic::Level;
use super::super::wording::{nearest, quoted};

/// One thing that is looked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Stable name, such as `vip-overlap`.
    pub id: &'static str,
    /// Level of its findings; a rule with both says so in its explanation.
    pub level: Level,
    /// What it looks at.
    pub section: Section,
    /// Whether a person may accept its findings. What the file's reader or
    /// the packet path cannot carry out is never accepted.
    pub allowable: bool,
    /// One line.
    pub summary: &'static str,
    /// Why it matters and what to do.
    pub explanation: &'static str,
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The text: syntax, keys and single values.
    File,
    /// How services and backends fit together.
    Shape,
    /// Who gets how much traffic.
    Distribution,
    /// The step from the running revision to this file.
    Change,
    /// The host, the kernel and the network.
    Live,
}

impl Section {
    /// Its name in lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Shape => "shape",
            Self::Distribution => "distribution",
            Self::Change => "change",
            Self::Live => "live",
        }
    }

    /// What it is, and who looks at it.
    pub fn about(self) -> &'static str {
        match self {
            Self::File => "the text of the file",
            Self::Shape => "how the file's services and backends fit together",
            Self::Distribution => "who gets how much traffic by the file",
            Self::Change => {
                "the step from what is running to the file, by `balancer plan` and each change"
            }
            Self::Live => "this host and its network, by `balancer check --live` and the daemon",
        }
    }
}

/// The rule of that id.
pub fn find(id: &str) -> Option<&'static Rule> {
    ALL.iter().copied().find(|rule| rule.id == id)
}

/// The rule of that id, if a person may accept its findings; otherwise a
/// message and a way out.
pub fn find_allowable(id: &str) -> Result<&'static Rule, (String, String)> {
    let Some(rule) = find(id) else {
        let ids = ALL.iter().filter(|rule| rule.allowable).map(|rule| rule.id);
        let help = match nearest(id, ids) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`balancer check --list` names all rules".to_owned(),
        };
        return Err((format!("there is no rule {}", quoted(id)), help));
    };
    if !rule.allowable {
        return Err((
            format!("rule `{id}` cannot be allowed"),
            "mend what it finds".to_owned(),
        ));
    }
    Ok(rule)
}

macro_rules! rules {
    ($($name:ident $id:literal $level:ident $section:ident $allowable:literal
        $summary:literal $explanation:literal)*) => {
        $(
            #[doc = concat!("`", $id, "`: ", $summary, ".")]
            pub static $name: Rule = Rule {
                id: $id,
                level: Level::$level,
                section: Section::$section,
                allowable: $allowable,
                summary: $summary,
                explanation: $explanation,
            };
        )*
        /// All rules, by section.
        pub static ALL: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    SYNTAX "syntax" Error File false
    "the text is not TOML"
    "Nothing can be said about a file that cannot be read. Several syntax faults are reported in one run; faults that may only follow from one are left out until it is mended."

    UNKNOWN_KEY "unknown-key" Error File false
    "a key that nothing reads"
    "A misspelt key would otherwise leave its default in force without a word. Keys that do nothing beside another setting, such as `path` with a TCP probe, are found too."

    MISSING_KEY "missing-key" Error File false
    "a key that must be there is not"
    "Only keys that have no safe default are required; the message says what to write."

    WRONG_TYPE "wrong-type" Error File false
    "a value of another type than the key takes"
    "Nothing is converted in silence: a quoted number is not a number, and a number without a unit is not a duration."

    BAD_VALUE "bad-value" Error File false
    "a value that the key does not take"
    "The message names the value and the limit."

    DUPLICATE_NAME "duplicate-name" Error File false
    "a name that is already taken"
    "Commands, metrics and the history name services and backends; two of one name could not be told apart."

    BAD_SERVICE_ADDRESS "bad-service-address" Error Shape false
    "a service address that no client can dial"
    "Packets to an unspecified, loopback, multicast, broadcast or link-local address, or to an IPv4-mapped IPv6 address, never reach the program."

    NO_SERVICES "no-services" Warning Shape false
    "a file without a service"
    "Every packet passes by untouched. A configuration overwritten with an empty one has taken whole sites down."

    NO_BACKENDS "no-backends" Error Shape true
    "a service without a backend that takes traffic"
    "The service has no backend, or all of them have weight 0 or are drained: every new flow would be dropped."

    SINGLE_BACKEND "single-backend" Warning Shape true
    "a service with one backend that takes traffic"
    "The loss of that one server is the loss of the service."

    VIP_OVERLAP "vip-overlap" Error Shape false
    "two services claim the same address, port and protocol"
    "The claim may be by a range of ports, by `any`, or by an IPv4-mapped IPv6 address. Which of the two got a packet would be luck."

    DUPLICATE_BACKEND "duplicate-backend" Error Shape true
    "the same address and port twice in a service"
    "Under two names one server gets twice its share, and draining one name leaves it in service under the other."

    BAD_BACKEND_ADDRESS "bad-backend-address" Error Shape true
    "a backend address that cannot be a server"
    "A VIP, a tunnel source or a fullnat source of this host would send packets round in a circle; loopback, multicast, broadcast, unspecified and link-local addresses lead nowhere."

    BACKEND_OUTSIDE_POOL "backend-outside-pool" Error Shape true
    "a backend outside the service's `allowed_backends`"
    "The servers of a test site can be healthy and give wrong answers for hours. The list in `allowed_backends` says where the service's own servers are; correct the address, or widen the list if it is meant."

    SHARED_BACKEND "shared-backend" Warning Shape true
    "one backend address serves two services of different `identity`"
    "A server that proves to be one of the two is unlikely to be the other: one of the lists of backends was probably copied from the other service."

    PORT_MISMATCH "port-mismatch" Error Shape false
    "port 0, or a backend port that the mode cannot rewrite to"
    "The modes `l2`, `ipip` and `gue` leave the packet's ports as they are, so a backend listens on the port that clients dial. `nat` and `fullnat` rewrite the service's only port; of several, each packet keeps the one it was sent to."

    FAMILY_MISMATCH "family-mismatch" Error Shape false
    "an address family that the forwarding mode cannot carry"
    "`l2` only rewrites Ethernet addresses, `nat` and `fullnat` addresses of the packet's own family. `ipip` and `gue` carry any pair."

    FULLNAT_SOURCES "fullnat-sources" Error Shape false
    "fullnat without a source address of its own"
    "Each new flow to a backend goes out from an address of `fullnat_sources_v4` or `_v6`, so the service's family needs one. One that is a service's address as well would make backends' replies look like clients' packets."

    TRANSLATION_LOOP "translation-loop" Error Shape false
    "a `nat` or `fullnat` backend that is a service's address"
    "The rewritten packet would be for that service again, and its backend's replies for nobody. Name the servers themselves."

    SERVER_ID "server-id" Error Shape false
    "a QUIC server id that is missing, doubled or of another length"
    "Connection ids name the server by the bytes that `[service.quic]` points at. Without an id of its own, of that length, a backend never gets its clients back once their address changes. An id without `[service.quic]` is read by nothing."

    NO_HEALTH_CHECK "no-health-check" Warning Shape true
    "no probe, or only a TCP probe on an HTTP port"
    "Without a probe a dead server keeps its share of the traffic. A socket that listens says little about the application behind it: probe with kind `http` or `https`."

    PROBE_WITHOUT_PROOF "probe-without-proof" Warning Shape true
    "an HTTP probe that any server would pass"
    "Without `expect_status` and `identity`, a default page or another team's server passes as well as the right one."

    PROBE_TIMING "probe-timing" Error Shape true
    "probe times that flap or that detect too late"
    "Errors: a `timeout` that is not below the `interval`, as probes would overlap; a `fast_interval` above the `interval`; a `flap_hold` above `flap_hold_max`. Warnings: `rise` or `fall` under 2, as one lost packet changes the state; `interval` times `fall` over 30 s, as a dead server keeps its share for so long, or under 1 s."

    PROBE_WAY "probe-way" Error Shape false
    "a probe by the VIP that forwarding would not carry"
    "With `via = \"vip\"` a probe is a packet that a client could send: to the service's address, one of its ports, by its protocol, and the backend answers as the VIP. `nat` and `fullnat` rewrite the destination, so that a backend never sees the VIP: there the ordinary probe goes where clients' packets go. Leave `via` out, or probe what the service forwards."

    FAIL_OPEN_UNSET "fail-open-unset" Warning Shape true
    "no stated behaviour for when too few backends are healthy"
    "Where the probes of all backends fail, it is often the probe that is broken. `fail_open_below` says below which healthy share of the weight all backends are used nevertheless; 0 says never."

    TABLE_SHARE "table-share" Error Distribution true
    "a backend's slots do not match its weight"
    "In the table that would be installed, a backend's slots differ from its weight's share by more than 1 % of that share and by more than 2 slots, or a backend with weight has no slot."

    DOMINANT_BACKEND "dominant-backend" Warning Distribution true
    "one backend takes most of the traffic"
    "One backend of three or more has over 50 % of the weight, or weights differ more than tenfold: often a typing error in one of them."

    TABLE_SIZE "table-size" Error Distribution true
    "a table size that is not prime, or too small"
    "A Maglev table needs a prime size; anything else is an error. Under 100 slots a backend is a warning, as shares become coarse."

    CAPACITY "capacity" Error Distribution true
    "the declared peak exceeds a backend's declared capacity"
    "`peak_flows_per_second` times the backend's share of the weight is more than its `capacity_flows_per_second`. Give it less weight, or add a backend."

    CAPACITY_N_1 "capacity-n-1" Warning Distribution true
    "the peak exceeds a capacity once a backend or a zone is lost"
    "The survivors take over the share of what is lost. If that is too much for one of them, it fails next, and the others after it."

    CHURN "churn" Warning Distribution true
    "a change moves more slots than it has to"
    "It moves more than twice the slots that the change of weights alone requires, and over 1 % of all. A backend's name says which slots it gets, so another name for the same server moves them; and in a table that is small for its backends much moves with each change."

    BLAST_RADIUS "blast-radius" Error Change true
    "a change that takes away a lot at once"
    "It removes over 25 % of a service's backends or takes over 25 % of its traffic from backends by lower weights or drains, removes a service or an address, protocol or port of one, or touches over 10 services that exist."

    STALE_BASE "stale-base" Error Change true
    "the file is based on a revision that is not the running one"
    "`based_on` names an older revision than the one that runs, so applying the file would undo what others have changed since. `balancer diff` shows what; write that into the file, and the new number into `based_on`."

    UNDRAINS "undrains" Warning Change true
    "a change gives traffic to a backend that an operator drained"
    "An operator took it out of service by `balancer backend drain`, perhaps for work on it, and the file does not know. If the work is done, undrain it first."

    UNPROVEN_BACKEND "unproven-backend" Error Change true
    "a new backend that no probe has passed yet"
    "A backend that is new, has another address, or is probed for something else must pass its service's probe `rise` times in a row before it gets traffic: the wrong server would be as alive as the right one. The message says how its probe failed."

    OLD_DRAIN "old-drain" Warning Change true
    "a drain older than 24 hours"
    "Somebody may have forgotten it. Undrain the backend, or remove it."

    MISSING_INTERFACE "missing-interface" Error Live false
    "an interface that does not exist or is down"
    "The program can only be attached to an interface that is there. One that is down is a warning."

    OTHER_LAYOUT "other-layout" Error Live false
    "tables of another version of the balancer forward now"
    "This build does not read tables that were laid out otherwise, and does not guess: `balancer run` refuses to start, and they go on forwarding as they are, without probes. Start the build that wrote them, or let `balancer run --replace-tables` (`BALANCER_REPLACE_TABLES=1` in the environment of a service) put fresh tables in their place in one step. Flow records, drains' flows and counters begin anew then: connections whose slot has moved since they began may break, so do it in a calm hour."

    BOND_PORT "bond-port" Error Live true
    "an interface is a port of a bond"
    "Packets arrive on whichever port the switch chooses, and move to another one when a link fails: a program on one port misses the rest. Name the bond; the kernel puts the program on each of its ports, also on those that join later. The same holds for a team."

    NEIGHBOUR "neighbour" Error Live true
    "no way to a backend"
    "An `l2` backend is not on-link, or its neighbour does not answer; or there is no route to a tunnelled backend, or no source address for the tunnel. It is a warning where the backend takes no new flows. See for yourself with `ip route get` and `ip neighbour`."

    MTU "mtu" Error Live true
    "the way to a backend is too narrow"
    "The MTU of the way is below that of the clients plus the mode's headers. Clients are taken to have the MTU of the widest interface that leads to no backend; where all do, 1500 or that of the link, as an MTU raised for the headers is not the clients'. It is a warning, as what does not fit is answered with an ICMP error: that costs each client a try, and a filter on its side may lose the error. It is an error where no answer helps: fewer than 1280 bytes are left of an IPv6 packet or 548 of an IPv4 one, which no client goes below. A TCP backend that announces a small enough MSS itself, as `check --live` sees when it asks it, has no finding; `mss_clamp` is no way out, as it shortens what backends send."

    XDP_MODE "xdp-mode" Warning Live true
    "the program would not run in the driver"
    "The driver has no native XDP, its frame limit is below the MTU, or the program that is attached runs in the generic hook, which works at a fraction of the speed. With `xdp_mode = \"native\"` this is an error, as the start would be refused; with `xdp_mode = \"generic\"` it is meant and no finding. The frame limit is a page less what XDP keeps free in it, 3506 bytes mostly; some drivers have a lower one. Drivers are asked, nothing is attached for a try; before Linux 6.3 they cannot be asked."

    FOREIGN_XDP "foreign-xdp" Error Live true
    "another XDP program is on the interface"
    "That program is never replaced: `balancer run` refuses to start until it is gone (`ip link set dev INTERFACE xdp off`). A program is the balancer's own if its link is pinned under `node.pin_dir`."

    OFFLOADS "offloads" Error Live true
    "an offload that hides packets from the program"
    "LRO merges packets before the program sees them, and so does GRO in generic mode: what is then longer than the MTU is dropped. Turn them off with `ethtool -K`. VLAN stripping takes away the tag that a packet is to leave with: a warning where a VLAN's interface stands on this one."

    RP_FILTER "rp-filter" Error Live true
    "strict reverse-path filtering where replies are asymmetric"
    "Probes of an IPv4 backend leave by one interface with an address of another, so answers come in on the latter, and its strict `rp_filter` drops them: the backend never comes up. Likewise the answers to probes by an IPv4 VIP, which come in towards the backends, where the route to the VIP leads elsewhere. What the program forwards is not filtered. The filters of the backends themselves cannot be seen from here; see `backend-vip`."

    VIP_PROBE "vip-probe" Error Live true
    "a probe by the VIP that this host cannot make"
    "Probes with `via = \"vip\"` leave by a TUN device of the daemon, so `/dev/net/tun` has to be there, and the VIP must be no address of this host: what a host sends to its own address never leaves it. Without them each probe fails, and says so; backends stay what they were, and new ones get no traffic."

    VIP_ANSWERED_ELSEWHERE "vip-answered-elsewhere" Error Live true
    "another host answers for the service's address"
    "An ARP probe or a neighbour solicitation on the file's interfaces is answered by another MAC: clients of that segment, or its router, would go there. Mostly it is an `l2` backend that holds the address and has not `arp_ignore`. In a group in which one balancer announces the address, the others find it: allow it there."

    BACKEND_VIP "backend-vip" Error Live true
    "a backend does not accept the service's address"
    "A backend of `l2`, `ipip` or `gue` answers from the service's address, so it has to hold it and, in a tunnel, to unwrap the packets. It is sent a SYN to the service's lowest port, in the frame that the balancer would send it, from an address of this host: no answer or a reset is an error. UDP services are pinged: silence is a warning only, as echo may be filtered. Also a warning: a backend that takes no new flows. The answer has to find its way back to this host, and through filters on that way; the server's answer on other ports, and the clients' own way, are not covered."

    MAP_CAPACITY "map-capacity" Error Live true
    "a kernel map is nearly full"
    "Above 90 % of the flow table or of the table of translations in use is an error; the daemon counts all the time and says so in its log and in `balancer status`. A flow table below the declared peak of new flows times `flow_idle_timeout`, over all services with `affinity = \"flow\"`, is a warning that every check gives."

    KERNEL_DRIFT "kernel-drift" Error Live true
    "the kernel's maps are not what the running revision says"
    "Something else wrote to them, took the program off an interface or put another one there, or a write was lost. The daemon looks every second, `balancer verify` at once; with `repair_drift`, which is the default, it writes anew what differs."

    PEER_DIGEST "peer-digest" Error Live true
    "two balancers of a group differ"
    "Seed, table size or services are not the same, so a flow that moves from one balancer to the other changes its backend. Bring the same file and the same seed into force on both."
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_texts_keep_the_house_style() {
        let mut seen = HashSet::new();
        for rule in ALL {
            assert!(seen.insert(rule.id), "{} twice", rule.id);
            assert!(
                rule.id
                    .bytes()
                    .all(|b| b == b'-' || b.is_ascii_lowercase() || b.is_ascii_digit())
            );
            assert!(!rule.summary.ends_with('.'), "{}", rule.id);
            assert!(rule.explanation.ends_with('.'), "{}", rule.id);
            assert_eq!(find(rule.id), Some(*rule));
        }
    }

    #[test]
    fn allowing_names_the_nearest_rule_and_refuses_what_cannot_be_carried_out() {
        assert_eq!(find_allowable("single-backend").unwrap(), &SINGLE_BACKEND);
        let (message, help) = find_allowable("single-backnd").unwrap_err();
        assert_eq!(message, "there is no rule \"single-backnd\"");
        assert_eq!(help, "did you mean `single-backend`?");
        let (message, _) = find_allowable("syntax").unwrap_err();
        assert_eq!(message, "rule `syntax` cannot be allowed");
    }
}
