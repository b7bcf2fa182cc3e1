//! Routing of marked packets: a rule that sends them to a table of their own,
//! that table's only route, and a rule that stops them where it is gone.
//!
//! Who makes these names them by one number, mark and table alike, so that
//! what a killed daemon left is found again: a rule of that number is taken
//! away before it is made, however often it is there. Routes by an interface go
//! with it by themselves.

use std::net::{Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use tokio::time::timeout;

use super::{Error, Netlink, PATIENCE};

const ADD_ROUTE: &str = "route marked packets";
const ADD_RULE: &str = "add a routing rule";
const REMOVE_RULE: &str = "remove a routing rule";
/// Before all rules that people make, behind that of the host's own addresses.
pub const PRIORITY: u32 = 10;
/// To the table; and, where its route is gone, nowhere: by another way a packet
/// would get to somebody else.
const ACTIONS: [RuleAction; 2] = [RuleAction::ToTable, RuleAction::Unreachable];
/// More rules of one number than anybody ever left.
const MAX_LEFT: usize = 64;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Netlink {
    /// Has packets with the mark `number` leave by that interface, wherever
    /// they go, but to the host's own addresses.
    ///
    /// # Errors
    /// When the kernel refuses, as it does without CAP_NET_ADMIN.
    pub async fn lead_marked(
        &self,
        family: Family,
        number: u32,
        interface: u32,
    ) -> Result<(), Error> {
        let route = match family {
            Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new()
                .output_interface(interface)
                .table_id(number)
                .scope(RouteScope::Link)
                .build(),
            Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new()
                .output_interface(interface)
                .table_id(number)
                .build(),
        };
        let request = self.handle.route().add(route).replace();
        settled(ADD_ROUTE, request.execute()).await?;
        self.unlead_marked(family, number).await?;
        for action in ACTIONS {
            let request = self.handle.rule().add();
            let request = request
                .action(action)
                .priority(priority(action))
                .fw_mark(number)
                .table_id(number);
            match family {
                Family::V4 => settled(ADD_RULE, request.v4().execute()).await?,
                Family::V6 => settled(ADD_RULE, request.v6().execute()).await?,
            }
        }
        Ok(())
    }

    /// Takes the rules of `number` away; whether there were any.
    ///
    /// # Errors
    /// When the kernel refuses, as it does without CAP_NET_ADMIN.
    pub async fn unlead_marked(&self, family: Family, number: u32) -> Result<bool, Error> {
        let mut is_found = false;
        for action in ACTIONS {
            for _ in 0..MAX_LEFT {
                let request = self.handle.rule().del(rule(family, number, action));
                match settled(REMOVE_RULE, request.execute()).await {
                    Ok(()) => is_found = true,
                    // A kernel without IPv6 has no rules of it.
                    Err(error)
                        if matches!(
                            error.errno(),
                            Some(Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)
                        ) =>
                    {
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(is_found)
    }
}

/// Where a rule stands.
fn priority(action: RuleAction) -> u32 {
    match action {
        RuleAction::ToTable => PRIORITY,
        _ => PRIORITY + 1,
    }
}

fn rule(family: Family, number: u32, action: RuleAction) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    // Without a mask all of the mark counts.
    rule.header.action = action;
    rule.attributes = vec![
        RuleAttribute::Priority(priority(action)),
        RuleAttribute::FwMark(number),
        RuleAttribute::Table(number),
    ];
    rule
}

async fn settled(
    asked: &'static str,
    request: impl Future<Output = Result<(), rtnetlink::Error>>,
) -> Result<(), Error> {
    match timeout(PATIENCE, request).await {
        Ok(result) => result.map_err(|error| Error::of(asked, &error)),
        Err(_) => Err(Error::Late { asked }),
    }
}
