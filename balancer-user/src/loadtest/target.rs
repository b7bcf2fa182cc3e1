//! What a load test is aimed at, as it is typed.

use std::fmt;

use hyper::Uri;

/// How flows talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1 requests.
    Http,
    /// The same within TLS.
    Https,
    /// Connections that are opened and closed.
    Tcp,
    /// Packets of UDP.
    Udp,
    /// The first packets of TCP connections.
    Syn,
}

impl Scheme {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Syn => "syn",
        }
    }

    /// Whether it is packets that are sent, which nobody answers here.
    pub fn is_packets(self) -> bool {
        matches!(self, Self::Udp | Self::Syn)
    }
}

/// A service and what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// How flows talk.
    pub scheme: Scheme,
    /// An address or a name; an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path, and a query where there is one; `/` where there are no requests.
    pub path: String,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PATH]`, the same with `https`, or
    /// `tcp://HOST:PORT`, the same with `udp` and `syn`.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let forms = "http://HOST[:PORT][/PATH], https://HOST[:PORT][/PATH], tcp://HOST:PORT, \
                     udp://HOST:PORT or syn://HOST:PORT";
        let wrong = |what: &str| format!("{what}; a target is {forms}");
        let uri: Uri = text.parse().map_err(|_| wrong("this is no URL"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some("tcp") => Scheme::Tcp,
            Some("udp") => Scheme::Udp,
            Some("syn") => Scheme::Syn,
            Some(other) => return Err(wrong(&format!("`{other}` is no scheme of a load test"))),
            None => return Err(wrong("the scheme is missing")),
        };
        let host = uri.host().filter(|it| !it.is_empty());
        let host = host.ok_or_else(|| wrong("the host is missing"))?;
        if uri.authority().is_some_and(|it| it.as_str().contains('@')) {
            return Err(wrong("a user cannot be given"));
        }
        let port = match (uri.port_u16(), scheme) {
            (Some(port), _) if port > 0 => port,
            (None, Scheme::Http) => 80,
            (None, Scheme::Https) => 443,
            _ => return Err(wrong("the port is missing")),
        };
        let path = uri.path_and_query().map_or("/", |it| it.as_str());
        let has_path = matches!(scheme, Scheme::Http | Scheme::Https);
        if !has_path && path != "/" && !path.is_empty() {
            return Err(wrong("only requests have a path"));
        }
        Ok(Self {
            scheme,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            path: if path.is_empty() { "/" } else { path }.to_owned(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.name();
        let default = match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
            Scheme::Tcp | Scheme::Udp | Scheme::Syn => 0,
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]", self.host)?,
            false => write!(f, "{scheme}://{}", self.host)?,
        }
        if self.port != default {
            write!(f, ":{}", self.port)?;
        }
        match self.scheme {
            Scheme::Tcp | Scheme::Udp | Scheme::Syn => Ok(()),
            Scheme::Http | Scheme::Https => f.write_str(&self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written_alike() {
        for text in [
            "http://192.0.2.1/",
            "http://192.0.2.1:8080/a?b=c",
            "https://[2001:db8::1]/login",
            "tcp://192.0.2.1:25",
            "tcp://[2001:db8::1]:25",
            "udp://192.0.2.1:53",
            "syn://[2001:db8::1]:80",
        ] {
            assert_eq!(Target::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Target::parse("http://web").unwrap().to_string(),
            "http://web/"
        );
    }

    #[test]
    fn what_is_no_target_is_said() {
        for (text, part) in [
            ("192.0.2.1:80", "scheme is missing"),
            ("ftp://192.0.2.1/", "`ftp` is no scheme"),
            ("tcp://192.0.2.1", "port is missing"),
            ("udp://192.0.2.1", "port is missing"),
            ("tcp://192.0.2.1:1/a", "have a path"),
            ("syn://192.0.2.1:1/a", "have a path"),
            ("http://me@192.0.2.1/", "user"),
            ("http:// /", "no URL"),
        ] {
            let said = Target::parse(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
