//! `balancer plan`: it tells what then happens, and nothing happens by it.

use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of, binary};
use balancer_tests::lab::Lab;
use balancer_tests::lab::capture::Capture;
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::client::HttpLoad;
use balancer_user::api::types::Planned;
use balancer_user::rehearsal::Moves;

use crate::LIMIT;
use crate::fixture::{Api, Service, balancer, l2, load_of, web_server, web_servers};

/// A file beside the one that runs, as an operator edits a copy.
struct Draft {
    directory: Scratch,
    text: String,
}

impl Draft {
    fn of(balancer: &Balancer<'_>) -> Result<Self> {
        Ok(Self {
            directory: Scratch::create("plan")?,
            text: fs::read_to_string(balancer.config())?,
        })
    }

    /// Puts a text behind another one, which is there once.
    fn insert(&self, behind: &str, what: &str) -> Result<String> {
        ensure!(self.text.matches(behind).count() == 1, "{}", self.text);
        Ok(self.text.replacen(behind, &format!("{behind}{what}"), 1))
    }

    fn plan(&self, balancer: &Balancer<'_>, text: &str, more: &[&str]) -> Result<Output> {
        let path = self.directory.path().join("new.toml");
        fs::write(&path, text)?;
        let path = path.to_string_lossy();
        balancer.command(&[&["plan", &path], more].concat())
    }
}

/// Insists on an exit code and gives stdout.
fn ended(output: Output, code: i32) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "ended with {} and not {code}:\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

fn last_line(said: &str) -> &str {
    said.lines().last().unwrap_or_default()
}

#[test]
fn plan_is_what_a_change_then_does_and_changes_nothing() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    let api = Api::new(&balancer)?;
    let draft = Draft::of(&balancer)?;
    // The file's probes are quicker than the check likes.
    let allow = ["--allow", "probe-timing", "--deny", "warnings"];
    let said = ended(draft.plan(&balancer, &draft.text, &allow)?, 0)?;
    let summary = last_line(&said);
    ensure!(summary == "nothing changes; 1 allowed finding", "{said}");
    ended(
        draft.plan(&balancer, &draft.text, &["--deny", "warnings"])?,
        1,
    )?;

    let before = (api.config()?, api.status()?.last_apply.map(|it| it.cause));
    let heavier = draft.insert("name = \"backend0\"\n", "weight = 250\n")?;
    let said = ended(draft.plan(&balancer, &heavier, &[])?, 3)?;
    for part in ["weight 100 -> 250", "33.3 %", "55.6 %", "22.2 %"] {
        ensure!(said.contains(part), "no {part:?} in\n{said}");
    }
    let summary = last_line(&said);
    ensure!(
        summary.starts_with("1 service changes; 2")
            && summary.contains("to backend0; 0 established flows break"),
        "{summary}"
    );
    let json = ended(draft.plan(&balancer, &heavier, &["--json"])?, 3)?;
    let planned: Planned = serde_json::from_str(&json)?;
    let after = (api.config()?, api.status()?.last_apply.map(|it| it.cause));
    ensure!(before == after, "planning changed something");

    balancer.succeed(&["backend", "weight", "web", "backend0", "250"])?;
    let status = balancer.status()?;
    let plan = planned.plan.context("no plan")?;
    for backend in &plan.services[0].backends {
        let has = backend_of(&status, "web", &backend.name).map(|it| it.slot_count);
        ensure!(backend.slots_after == has, "{backend:?} has {has:?}");
    }
    // Now the old file would take it back.
    let said = ended(draft.plan(&balancer, &draft.text, &[])?, 3)?;
    ensure!(said.contains("weight 250 -> 100"), "{said}");
    Ok(())
}

#[test]
fn new_backend_is_probed_with_the_services_identity() -> Result<()> {
    let lab = l2(3)?;
    let _servers = [web_server(lab.backend(0))?, web_server(lab.backend(1))?];
    let all = Service::web_l2(&lab);
    let mut two = all.clone();
    two.backends.pop();
    let balancer = balancer(&lab, &two.toml())?;
    let draft = Draft::of(&balancer)?;
    let address = lab.backend(2).v4();
    let added = format!(
        "{}\n[[service.backend]]\nname = \"backend2\"\naddress = \"{address}\"\n",
        draft.text
    );
    let line = added.lines().count();
    let said = ended(draft.plan(&balancer, &added, &[])?, 1)?;
    for part in [
        "error[unproven-backend]: service web: backend backend2".to_owned(),
        format!("new.toml:{line}:11"),
        "new -> unproven".to_owned(),
    ] {
        ensure!(said.contains(&part), "no {part:?} in\n{said}");
    }
    let allowed = ["--allow", "unproven-backend"];
    let said = ended(draft.plan(&balancer, &added, &allowed)?, 3)?;
    ensure!(last_line(&said).ends_with("1 allowed finding"), "{said}");

    let _third = web_server(lab.backend(2))?;
    let said = ended(draft.plan(&balancer, &added, &[])?, 3)?;
    ensure!(
        said.contains("new -> up") && said.contains("33.3 %"),
        "{said}"
    );
    // It answers, and is another server than the service asks for.
    let identity = "identity = { body = \"the shop\" }\n";
    let other = added.replacen(
        "kind = \"http\"\n",
        &format!("kind = \"http\"\n{identity}"),
        1,
    );
    let said = ended(draft.plan(&balancer, &other, &[])?, 1)?;
    let unproven = said.matches("error[unproven-backend]").count();
    ensure!(unproven == 3, "{unproven} in\n{said}");
    Ok(())
}

#[test]
fn wrong_step_is_an_error_and_a_wrong_file_has_no_plan() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    let draft = Draft::of(&balancer)?;
    let (node, _) = draft.text.split_once("[[service]]").context("no service")?;
    let said = ended(draft.plan(&balancer, node, &[])?, 1)?;
    for part in [
        "error[blast-radius]: service web is removed",
        "service web is removed",
        "warning[no-services]",
        "1 service is removed; no new flows move; 100.0 % of the established flows",
    ] {
        ensure!(said.contains(part), "no {part:?} in\n{said}");
    }
    let wrong = draft.text.replacen("\"tcp\"", "\"tpc\"", 1);
    let said = ended(draft.plan(&balancer, &wrong, &[])?, 1)?;
    ensure!(said.contains("error[bad-value]"), "{said}");
    ensure!(
        last_line(&said) == "not planned, as the file is refused; 1 error",
        "{said}"
    );
    // The first revision is the one that it was started with.
    let stale = format!("based_on = 7\n{}", draft.text);
    let said = ended(draft.plan(&balancer, &stale, &[])?, 1)?;
    ensure!(
        said.contains("error[stale-base]: the file is based on revision 7, and 1 is running")
            && said.contains("new.toml:1:12"),
        "{said}"
    );
    let current = format!("based_on = 1\n{}", draft.text);
    ended(draft.plan(&balancer, &current, &[])?, 0)?;
    let interfaces = draft.text.replacen("\"eth0\"", "\"eth0\", \"eth9\"", 1);
    let said = ended(draft.plan(&balancer, &interfaces, &[])?, 1)?;
    ensure!(
        last_line(&said).contains("only a restart takes node.interfaces"),
        "{said}"
    );
    let output = draft.plan(&balancer, &draft.text, &["--allow", "churm"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    Ok(())
}

#[test]
fn operators_drain_goes_on_and_stdin_is_read() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    balancer.succeed(&["backend", "drain", "web", "backend1"])?;
    let text = fs::read_to_string(balancer.config())?;
    let mut command = Command::new(binary());
    command.arg("--socket").arg(balancer.socket());
    command.args(["plan", "-", "--allow", "probe-timing"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let said = ended(child.wait_with_output()?, 0)?;
    ensure!(
        last_line(&said)
            == "nothing changes; drained by command and still so: backend1 of service web; \
                1 allowed finding",
        "{said}"
    );
    ensure!(said.contains("stdin:"), "{said}");
    Ok(())
}

/// Flows of each service below.
const FLOWS: usize = 300;

/// A service of TCP and one of UDP whose flows are recorded, and their file.
fn web_and_games(lab: &Lab) -> (Service, Service, String) {
    let web = Service::web_l2(lab);
    let games = Service {
        name: "games",
        port: 7777,
        protocol: "udp",
        health: "kind = \"tcp\"\nport = 80\ninterval = \"200ms\"\ntimeout = \"190ms\"\n",
        ..web.clone()
    };
    let recorded = games.toml().replacen(
        "protocol = \"udp\"\n",
        "protocol = \"udp\"\naffinity = \"flow\"\n",
        1,
    );
    let text = [web.toml(), recorded].join("\n");
    (web, games, text)
}

/// How many flows of the third backend move.
fn of_third(moves: &Moves) -> u64 {
    let moves = moves.by_backend.iter();
    let moves = moves.filter(|it| it.from == "backend2" && it.to != "backend2");
    moves.map(|it| it.flows).sum()
}

#[test]
fn flows_on_record_and_flows_of_a_capture_show_where_they_would_go() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let (web, games, text) = web_and_games(&lab);
    let balancer = balancer(&lab, &text)?;
    let draft = Draft::of(&balancer)?;
    let client = lab.client(0);
    let capture = Capture::start(client.namespace(), "eth0", "tcp dst port 80")?;
    let answered = load_of(&lab, web.dial());
    let answered = HttpLoad {
        requests: Some(FLOWS as u64),
        ..answered
    };
    let answered = answered.run(client.namespace())?;
    client.namespace().run(|| -> Result<()> {
        for _ in 0..FLOWS {
            // Nobody listens there; that is not the sender's trouble. By its
            // second datagram a flow has a second record, and is one all the same.
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(b"move", games.dial())?;
            socket.send_to(b"again", games.dial())?;
        }
        Ok(())
    })??;
    let (gone, _) = draft
        .text
        .rsplit_once("[[service.backend]]")
        .context("no backend")?;
    let web_text = gone.replacen(
        "name = \"backend2\"\n",
        "name = \"backend2\"\nweight = 0\n",
        1,
    );
    let file = capture.file().to_string_lossy().into_owned();
    let options = [
        "--json",
        "--flows",
        "--pcap",
        &file,
        "--allow",
        "blast-radius",
    ];
    let json = ended(draft.plan(&balancer, &web_text, &options)?, 3)?;
    let planned: Planned = serde_json::from_str(&json)?;
    let captured = planned.captured.context("nothing of the capture")?;
    // A busy machine may lose a packet, or not capture it.
    let missed = answered.answered.saturating_sub(captured.flows);
    ensure!(missed <= FLOWS as u64 / 10, "{captured:?}");
    // Little else moves with a backend that goes.
    let third = answered.from_backend("backend2");
    let moved = of_third(&captured);
    ensure!(
        (third.saturating_sub(missed)..=third).contains(&moved),
        "{third}: {captured:?}"
    );
    ensure!(captured.moved <= third + FLOWS as u64 / 20, "{captured:?}");
    let recorded = planned.recorded.context("nothing on record")?;
    // What the counters say is published once a second.
    let (arrived, of_backend2) = balancer.wait_status("all flows counted", LIMIT, |status| {
        let of = |name: &str| backend_of(status, "games", name).map_or(0, |it| it.flows);
        let all = of("backend0") + of("backend1") + of("backend2");
        (all >= recorded.flows).then(|| (all, of("backend2")))
    })?;
    ensure!(arrived >= FLOWS as u64 * 9 / 10, "{recorded:?}");
    ensure!(recorded.flows == arrived, "{arrived}: {recorded:?}");
    ensure!(recorded.moved == of_backend2, "{recorded:?}");
    ensure!(recorded.moved == of_third(&recorded), "{recorded:?}");
    let said = ended(draft.plan(&balancer, &web_text, &options[1..])?, 3)?;
    for part in [
        format!(
            "flows on record: {arrived} flows, {} of them",
            recorded.moved
        ),
        format!("flows in the capture: {} flows, ", captured.flows),
        "service games: backend2 -> backend".to_owned(),
    ] {
        ensure!(said.contains(&part), "no {part:?} in\n{said}");
    }
    Ok(())
}

/// A server that swallows the probe takes the whole time that a proof may.
#[test]
fn balancer_does_not_wait_for_a_proof() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    let draft = Draft::of(&balancer)?;
    let server = lab.backend(1);
    let drop = "nft add table ip deaf && nft add chain ip deaf input '{ type filter hook input \
                priority 0; }' && nft add rule ip deaf input tcp dport 8099 drop";
    let mut shell = server.namespace().command("sh");
    ensure!(shell.args(["-c", drop]).status()?.success(), "nft");
    let slow = draft
        .text
        .replacen(
            "port = 80\ninterval = \"200ms\"",
            "port = 8099\ninterval = \"9s\"",
            1,
        )
        .replacen("timeout = \"190ms\"", "timeout = \"8s\"", 1);
    ensure!(slow != draft.text, "{slow}");
    let path = draft.directory.path().join("slow.toml");
    fs::write(&path, slow)?;
    let mut command = Command::new(binary());
    command
        .arg("--socket")
        .arg(balancer.socket())
        .arg("plan")
        .arg(&path);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut planning = command.spawn()?;
    // Each of these is asked of the loop while the proof goes on.
    let mut weight = 200;
    while began.elapsed().as_secs() < 2 {
        weight += 1;
        balancer.succeed(&["backend", "weight", "web", "backend0", &weight.to_string()])?;
        ensure!(planning.try_wait()?.is_none(), "the plan was made too soon");
    }
    ensure!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    planning.kill()?;
    planning.wait()?;
    Ok(())
}
