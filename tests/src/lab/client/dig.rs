//! dig, for single DNS queries.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::namespace::Namespace;
use crate::lab::process;

/// A query for dig.
#[derive(Clone, Debug)]
pub struct Dig {
    /// Who is asked.
    pub server: SocketAddr,
    /// The name asked for.
    pub name: String,
    /// The type of record, such as `A`.
    pub kind: String,
    /// Over TCP instead of UDP.
    pub tcp: bool,
    /// The longest answer wanted over UDP; dig's own choice without one. A
    /// longer one is cut off, and dig asks again over TCP.
    pub buffer_len: Option<u16>,
    /// The address to ask from; the kernel's choice without one.
    pub source: Option<IpAddr>,
    /// Whole seconds to wait for the answer; it is asked once.
    pub seconds: u32,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, such as `NOERROR`.
    pub status: String,
    /// The data of the records, as dig prints it.
    pub records: Vec<String>,
    /// Whether it came over TCP.
    pub over_tcp: bool,
}

impl Dig {
    /// A query over UDP that waits two seconds.
    pub fn new(server: SocketAddr, name: &str, kind: &str) -> Self {
        let (name, kind) = (name.to_owned(), kind.to_owned());
        Self {
            server,
            name,
            kind,
            tcp: false,
            buffer_len: None,
            source: None,
            seconds: 2,
        }
    }

    /// Asks; `None` if no answer came.
    ///
    /// # Errors
    /// When dig is not there or refuses the query.
    pub fn run(&self, namespace: &Namespace) -> Result<Option<Answer>> {
        let mut command = namespace.command("dig");
        // -r: no file of the user's.
        command.args(["-r", "-p", &self.server.port().to_string()]);
        if let Some(source) = self.source {
            command.args(["-b", &source.to_string()]);
        }
        command
            .arg(format!("@{}", self.server.ip()))
            .args([&self.name, &self.kind]);
        command.args(["+noall", "+comments", "+answer", "+stats", "+tries=1"]);
        command.arg(format!("+time={}", self.seconds));
        if self.tcp {
            command.arg("+tcp");
        }
        if let Some(len) = self.buffer_len {
            command.arg(format!("+bufsize={len}"));
        }
        let limit = Duration::from_secs(u64::from(self.seconds) + 10);
        let output = process::run(command, limit)?;
        let text = String::from_utf8_lossy(&output.stdout);
        match (answer(&text), output.status.code()) {
            (Some(answer), _) => Ok(Some(answer)),
            // "Couldn't get reply", as its manual has it.
            (None, Some(9)) => Ok(None),
            (None, _) => bail!("dig: {}\n{text}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

fn answer(text: &str) -> Option<Answer> {
    let (_, status) = text.split_once("status: ")?;
    let (status, _) = status.split_once(',')?;
    let records = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(';'))
        // Name, lifetime, class and type go before the data.
        .map(|line| {
            line.split_whitespace()
                .skip(4)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    Some(Answer {
        status: status.to_owned(),
        records,
        over_tcp: text.contains("(TCP)\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let text = ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 7\n\n\
                    ;; ANSWER SECTION:\nwww.lab.\t0\tIN\tA\t10.0.0.1\nx. 0 IN TXT \"a b\"\n\
                    ;; SERVER: 10.0.0.9#53(10.0.0.9) (TCP)\n";
        let records = vec!["10.0.0.1".to_owned(), "\"a b\"".to_owned()];
        assert_eq!(
            answer(text),
            Some(Answer {
                status: "NOERROR".to_owned(),
                records,
                over_tcp: true,
            })
        );
        assert_eq!(
            answer(";; connection timed out; no servers could be reached\n"),
            None
        );
    }
}
