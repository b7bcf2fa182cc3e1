//! Whom a load test may be aimed at.
//!
//! A load test against the wrong address is an attack. So there is a list, and
//! without one there is no test.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Prefixes, some with the ports that are meant.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AllowList(Vec<Entry>);

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    prefix: IpNet,
    /// Inclusive; none is every port.
    ports: Vec<(u16, u16)>,
}

impl AllowList {
    /// Reads a list: a prefix or an address a line, after a blank its ports
    /// where not all are meant (`80,8000-8010`), and comments after `#`.
    ///
    /// # Errors
    /// Every line that is no such thing, with its number, at once.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (mut entries, mut faults) = (Vec::new(), Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            match Entry::parse(line) {
                Ok(entry) => entries.push(entry),
                Err(fault) => faults.push(format!("line {number}: {fault}")),
            }
        }
        if faults.is_empty() {
            Ok(Self(entries))
        } else {
            Err(faults)
        }
    }

    /// Whether packets may come from all of a prefix: answers go there, to any
    /// port, so it is on the list without ports.
    pub fn allows_source(&self, prefix: IpNet) -> bool {
        let mut entries = self.0.iter();
        entries.any(|it| it.ports.is_empty() && it.prefix.contains(&prefix))
    }

    /// Whether an address and its port are on it.
    pub fn allows(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|entry| {
            let mut ports = entry.ports.iter();
            entry.prefix.contains(&address.ip())
                && (entry.ports.is_empty()
                    || ports.any(|(first, last)| (*first..=*last).contains(&address.port())))
        })
    }
}

impl Entry {
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let prefix = words.next().unwrap_or_default();
        let parsed = prefix.parse().ok();
        let parsed = parsed.or_else(|| prefix.parse::<IpAddr>().ok().map(IpNet::from));
        let Some(parsed) = parsed else {
            return Err(format!(
                "`{prefix}` is neither an address nor a prefix such as 192.0.2.0/24"
            ));
        };
        let ports = words.next().map_or(Ok(Vec::new()), ports)?;
        match words.next() {
            None => Ok(Self {
                prefix: parsed,
                ports,
            }),
            Some(word) => Err(format!(
                "`{word}` is one word too many: a line has a prefix, and ports such as 80,8000-8010"
            )),
        }
    }
}

fn ports(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = (first.parse().ok()?, last.parse().ok()?);
        (range.0 <= range.1 && range.0 > 0).then_some(range)
    };
    let ranges = text.split(',').map(|part| {
        range(part).ok_or_else(|| format!("`{part}` is no port and no range such as 8000-8010"))
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(list: &AllowList, address: &str) -> bool {
        list.allows(address.parse().unwrap())
    }

    #[test]
    fn only_what_is_listed_is_allowed() {
        let list = "# staging\n192.0.2.0/24 80,8000-8010 # web\n2001:db8::/64\n\n198.51.100.7\n";
        let list = AllowList::parse(list).unwrap();
        for good in [
            "192.0.2.9:80",
            "192.0.2.9:8000",
            "192.0.2.9:8010",
            "[2001:db8::5]:1",
            "198.51.100.7:443",
        ] {
            assert!(allows(&list, good), "{good}");
        }
        for bad in [
            "192.0.2.9:81",
            "192.0.3.9:80",
            "198.51.100.8:443",
            "127.0.0.1:80",
            "[2001:db8:1::5]:1",
        ] {
            assert!(!allows(&list, bad), "{bad}");
        }
        assert!(!allows(&AllowList::default(), "127.0.0.1:80"));
    }

    #[test]
    fn sources_are_allowed_as_a_whole_and_with_all_ports() {
        let list = AllowList::parse("192.0.2.0/24 80\n198.51.100.0/25\n2001:db8::/64\n").unwrap();
        for (prefix, is_allowed) in [
            ("198.51.100.0/25", true),
            ("198.51.100.64/26", true),
            ("198.51.100.0/24", false),
            ("192.0.2.0/24", false),
            ("2001:db8::/112", true),
            ("10.0.0.0/8", false),
        ] {
            assert_eq!(
                list.allows_source(prefix.parse().unwrap()),
                is_allowed,
                "{prefix}"
            );
        }
    }

    #[test]
    fn every_wrong_line_is_named() {
        let faults = AllowList::parse("web\n10.0.0.0/33\n10.0.0.0/8 0\n10.0.0.0/8 9-8\n::1 1 2\n");
        let faults = faults.unwrap_err();
        assert_eq!(faults.len(), 5);
        assert!(
            faults[0].starts_with("line 1: `web` is neither"),
            "{faults:?}"
        );
        assert!(
            faults[4].starts_with("line 5: `2` is one word too many"),
            "{faults:?}"
        );
    }
}
