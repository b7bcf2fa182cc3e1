//! Who may use the control socket, by real users and groups: a reader may read
//! and not change, whoever is in no group may nothing, and the history names
//! who changed something.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::process;
use nix::unistd::{Group, User};
use serde_json::{Value, json};

use crate::LIMIT;
use crate::apply::last;
use crate::fixture::{Service, balancer, l2};

/// Groups that every host has. The user `games` is in the first by the host's
/// lists.
const READERS: &str = "games";
const OPERATORS: &str = "users";
/// A user and a group that own nothing.
const NOBODY: u32 = 65_534;

/// What came of a request, 0 without an answer.
struct Answer {
    status: u16,
    body: Value,
}

/// A request as this user, with this group and no others.
fn ask(
    balancer: &Balancer<'_>,
    (user, group): (u32, u32),
    path: &str,
    body: Option<&Value>,
) -> Result<Answer> {
    let mut command = std::process::Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={group}")]);
    command.args([
        "--clear-groups",
        "curl",
        "--silent",
        "--write-out",
        "\n%{http_code}",
    ]);
    command.arg("--unix-socket").arg(balancer.socket());
    if let Some(body) = body {
        command.args(["--header", "Content-Type: application/json"]);
        command.args(["--data", &body.to_string()]);
    }
    command.arg(format!("http://balancer{path}"));
    let output = process::run(command, LIMIT)?;
    let text = String::from_utf8(output.stdout)?;
    let (body, status) = text.rsplit_once('\n').context("no status")?;
    Ok(Answer {
        status: status.parse()?,
        body: serde_json::from_str(body).unwrap_or_default(),
    })
}

fn group(name: &str) -> Result<u32> {
    let group = Group::from_name(name)?.with_context(|| format!("no group {name}"))?;
    Ok(group.gid.as_raw())
}

fn user(name: &str) -> Result<u32> {
    let user = User::from_name(name)?.with_context(|| format!("no user {name}"))?;
    Ok(user.uid.as_raw())
}

fn weight(to: u16) -> Value {
    json!({ "change": {
        "op": "backend_weight", "service": "web", "backend": "backend0", "weight": to
    }})
}

#[test]
fn reader_may_not_change_operator_may_and_the_history_has_his_name() -> Result<()> {
    let lab = l2(2)?;
    let service = Service {
        health: "",
        ..Service::web_l2(&lab)
    };
    let groups = format!("read_group = \"{READERS}\"\nchange_group = \"{OPERATORS}\"\n");
    let balancer = balancer(&lab, &format!("{groups}{}", service.toml()))?;
    let reader = (NOBODY, group(READERS)?);
    let operator = (user("daemon")?, group(OPERATORS)?);
    // By the host's lists alone, with another group at hand.
    let listed = (user(READERS)?, NOBODY);
    let stranger = (NOBODY, NOBODY);
    for who in [reader, operator, listed] {
        for path in ["/v1/status", "/v1/revisions", "/v1/events"] {
            let answer = ask(&balancer, who, path, None)?;
            ensure!(answer.status == 200, "{who:?} {path}: {}", answer.body);
        }
    }
    for who in [reader, listed, stranger] {
        let answer = ask(&balancer, who, "/v1/changes", Some(&weight(50)))?;
        ensure!(answer.status == 403, "{who:?}: {}", answer.body);
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        ensure!(detail.contains("members of group users"), "{detail}");
        for path in ["/v1/config", "/v1/revisions/1"] {
            ensure!(ask(&balancer, who, path, None)?.status == 403, "{path}");
        }
    }
    ensure!(ask(&balancer, stranger, "/v1/status", None)?.status == 403);
    ensure!(last(&balancer)?.number == 1, "something was changed");

    let answer = ask(&balancer, operator, "/v1/changes", Some(&weight(50)))?;
    ensure!(answer.status == 200, "{}", answer.body);
    let made = last(&balancer)?;
    ensure!(made.number == 2 && made.author.user == "daemon", "{made:?}");
    Ok(())
}

#[test]
fn without_groups_the_socket_is_root_s_and_with_one_that_group_s() -> Result<()> {
    let lab = l2(2)?;
    let service = Service {
        health: "",
        ..Service::web_l2(&lab)
    };
    let mode = |balancer: &Balancer<'_>| -> Result<u32> {
        let metadata = std::fs::metadata(balancer.socket())?;
        Ok(metadata.permissions().mode() & 0o777)
    };
    let reader = (NOBODY, group(READERS)?);
    let mut balancer = balancer(&lab, &service.toml())?;
    ensure!(mode(&balancer)? == 0o600);
    ensure!(ask(&balancer, reader, "/v1/status", None)?.status == 0);
    balancer.stop()?;
    let text = format!("read_group = \"{READERS}\"\n{}", service.toml());
    balancer.write_services(&["eth0"], &text)?;
    balancer.restart()?;
    ensure!(mode(&balancer)? == 0o660);
    ensure!(ask(&balancer, reader, "/v1/status", None)?.status == 200);
    ensure!(ask(&balancer, (NOBODY, NOBODY), "/v1/status", None)?.status == 0);
    balancer.stop()?;
    let text = text.replace(READERS, "no-such-group");
    balancer.write_services(&["eth0"], &text)?;
    let said = balancer.refuse_to_start()?;
    ensure!(said.contains("node.read_group no-such-group"), "{said}");
    Ok(())
}
