//! From a fault to a pager: a real Prometheus scrapes the balancer and goes by
//! the rules in `deploy`, a real Alertmanager takes what it and the balancer's
//! webhook say. Who changed what before it stands in both alerts.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::client::Curl;
use balancer_tests::lab::server::{Nginx, NginxConfig};
use balancer_tests::lab::{Lab, Process, wait_for};
use serde_json::Value;

use crate::apply::paced;
use crate::fixture::{Service, l2, wait_answers, web_servers};
use crate::metrics::{serving, wait_sample};
use crate::verify::Kernel;

/// Two programs have to start, scrape, evaluate and send.
const LIMIT: Duration = Duration::from_secs(90);

/// Prometheus and Alertmanager on the first client.
struct Watchers<'a> {
    lab: &'a Lab,
    alertmanager: SocketAddr,
    processes: [Process; 2],
    #[expect(dead_code, reason = "held for its drop")]
    directory: Scratch,
}

fn at(lab: &Lab, port: u16) -> Result<SocketAddr> {
    let own = lab.client(0).interface().v4.first().copied();
    Ok(SocketAddr::new(own.context("no address")?.into(), port))
}

fn start<'a>(lab: &'a Lab, balancer: &str) -> Result<Watchers<'a>> {
    let directory = Scratch::create("alerts")?;
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (prometheus, alertmanager) = (at(lab, 9090)?, at(lab, 9093)?);
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let rules = fs::read_to_string(rules.join("balancer.rules.yml"))?;
    // As they are deployed, but for the patience.
    let rules = rules.replace("interval: 15s", "interval: 1s");
    fs::write(path("rules.yml"), rules.replace("for: 30s", "for: 3s"))?;
    fs::write(
        path("prometheus.yml"),
        format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [rules.yml]\n\
             alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: ['{alertmanager}'] }}] }}] }}\n\
             scrape_configs: [{{ job_name: balancer, static_configs: [{{ targets: ['{balancer}'] }}] }}]\n"
        ),
    )?;
    let second = start_alertmanager(lab, alertmanager, directory.path())?;
    let client = lab.client(0).namespace();
    let mut command = client.command("prometheus");
    command
        .arg(format!("--config.file={}", path("prometheus.yml")))
        .arg(format!("--storage.tsdb.path={}", path("prometheus")))
        .arg(format!("--web.listen-address={prometheus}"));
    let log = directory.path().join("prometheus.log");
    let first = Process::spawn("prometheus", command, &log)?;
    Ok(Watchers {
        lab,
        alertmanager,
        processes: [first, second],
        directory,
    })
}

/// An Alertmanager that tells nobody.
fn start_alertmanager(lab: &Lab, at: SocketAddr, directory: &Path) -> Result<Process> {
    let path = |name: &str| directory.join(name).display().to_string();
    let quiet = "route: { receiver: nobody, group_wait: 1s }\nreceivers: [{ name: nobody }]\n";
    fs::write(path("alertmanager.yml"), quiet)?;
    let mut command = lab.client(0).namespace().command("prometheus-alertmanager");
    command
        .arg(format!("--config.file={}", path("alertmanager.yml")))
        .arg(format!("--storage.path={}", path("alertmanager")))
        .arg(format!("--web.listen-address={at}"))
        .arg("--cluster.listen-address=");
    let log = directory.join("alertmanager.log");
    Process::spawn("prometheus-alertmanager", command, &log)
}

/// What an Alertmanager holds now.
fn alerts(lab: &Lab, at: SocketAddr) -> Option<Vec<Value>> {
    let curl = Curl::get(at, "/api/v2/alerts");
    let response = curl.run(lab.client(0).namespace()).ok()?;
    serde_json::from_str(&response.text()).ok()
}

impl Watchers<'_> {
    fn alerts(&self) -> Option<Vec<Value>> {
        alerts(self.lab, self.alertmanager)
    }

    /// Waits for an alert that is as wanted.
    fn wait(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(what, LIMIT, || {
            self.alerts()?.into_iter().find(|alert| is_it(alert))
        })
        .with_context(|| {
            let logs = self.processes_log();
            format!("{:#?}\n{logs}", self.alerts())
        })
    }

    fn processes_log(&self) -> String {
        let logs = self.processes.iter().map(Process::log);
        logs.collect::<Vec<_>>().join("\n")
    }
}

fn is(alert: &Value, labels: &[(&str, &str)]) -> bool {
    labels
        .iter()
        .all(|(name, value)| alert["labels"][*name] == **value)
}

#[test]
fn skew_is_a_firing_alert_with_revision_and_author_by_rules_and_by_webhook() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let webhook = format!(
        "[[node.webhook]]\nname = \"on-call\"\nurl = \"http://{}\"\nkind = \"alertmanager\"\n",
        at(&lab, 9093)?
    );
    let text = format!(
        "table_size = 4099\nrepair_drift = false\n{webhook}\n{}",
        service.toml()
    );
    let balancer = serving(&lab, &text)?;
    let target = format!("{}:9180", lab.balancer().v4());
    let watchers = start(&lab, &target)?;
    balancer.succeed(&["backend", "weight", "web", "backend1", "101"])?;
    let load = paced(&lab, &service)?;
    wait_answers(&load, 1000)?;
    wait_for("Alertmanager", LIMIT, || watchers.alerts())
        .with_context(|| watchers.processes_log())?;

    let altered = Instant::now();
    Kernel::of(&balancer)?.change_slots_of(6)?;
    let skew = [
        ("kind", "skew"),
        ("service", "web"),
        ("backend", "backend2"),
    ];
    let is_told = |alert: &Value| is(alert, &skew) && alert["labels"]["host"].is_string();
    let told = watchers.wait("the webhook's alert", is_told)?;
    println!("by webhook after {:?}", altered.elapsed());
    let says = &told["annotations"];
    ensure!(told["labels"]["alertname"] == "BalancerIncident");
    ensure!(
        says["revision"] == "2" && says["author"] == "root",
        "{told:#}"
    );
    ensure!(says["command"] == "balancer verify --repair", "{told:#}");

    let is_scraped = |alert: &Value| is(alert, &skew) && alert["labels"]["job"] == "balancer";
    let scraped = watchers.wait("the rule's alert of the incident", is_scraped)?;
    println!("by rule after {:?}", altered.elapsed());
    ensure!(
        is(&scraped, &[("revision", "2"), ("author", "root")]),
        "{scraped:#}"
    );

    // What the rules see by themselves.
    let name = [("alertname", "BalancerSkew"), ("service", "web")];
    let seen = watchers.wait("the skew by counters", |alert| is(alert, &name))?;
    println!("by counters after {:?}", altered.elapsed());
    ensure!(seen["annotations"]["author"] == "root", "{seen:#}");
    ensure!(seen["annotations"]["revision"] == "2", "{seen:#}");

    load.stop()?;
    wait_for("the end of the webhook's alert", LIMIT, || {
        let alerts = watchers.alerts()?;
        (!alerts.iter().any(is_told)).then_some(())
    })
    .with_context(|| balancer.log())?;
    ensure!(!balancer.log().contains("are lost"), "{}", balancer.log());
    Ok(())
}

/// Takes plain JSON: a web server that keeps each body it gets, and refuses
/// all with 503 while it is not healthy.
struct Receiver(Nginx);

impl Receiver {
    fn start(lab: &Lab, at: SocketAddr) -> Result<Self> {
        let mut config = NginxConfig::new("receiver", &[], 0);
        config.listen = vec![at];
        // Only a body that is passed on is kept.
        config.directives = format!(
            "location = /hook {{ client_body_in_file_only on; proxy_pass http://{at}/healthz; }}"
        );
        Ok(Self(Nginx::start(lab.client(0).namespace(), &config)?))
    }

    /// The bodies so far, in the order in which they came.
    fn bodies(&self) -> Result<Vec<Value>> {
        let directory = self.0.server.directory().join("temporary/body");
        let files: std::io::Result<Vec<_>> = fs::read_dir(&directory)?
            .map(|file| Ok(file?.path()))
            .collect();
        let mut files = files?;
        // Numbered, with zeros in front.
        files.sort();
        let read = |path: &std::path::PathBuf| Ok(serde_json::from_slice(&fs::read(path)?)?);
        files.iter().map(read).collect()
    }

    /// Waits for a body that says this of backend 0.
    fn wait(&self, event: &str, after: usize) -> Result<Vec<Value>> {
        wait_for(&format!("{event:?} at the receiver"), LIMIT, || {
            let bodies = self.bodies().ok()?;
            let mut later = bodies.iter().skip(after);
            let is_it = |it: &Value| {
                it["event"] == event
                    && it["incident"]["kind"] == "backend-down"
                    && it["incident"]["backend"] == "backend0"
            };
            later.any(is_it).then_some(bodies)
        })
        .with_context(|| format!("{:#?}", self.bodies()))
    }
}

/// The alert of the one incident of the test; nothing else fires.
fn firing(lab: &Lab, at: SocketAddr) -> Option<Option<Value>> {
    let alerts = alerts(lab, at)?;
    let down = [("kind", "backend-down"), ("backend", "backend0")];
    let mut ours = alerts.into_iter().filter(|alert| is(alert, &down));
    let first = ours.next();
    // Two would be one incident with other labels.
    ours.next().is_none().then_some(first)
}

#[test]
fn receivers_that_were_away_are_told_and_alerts_end_with_the_incident_after_a_restart_too()
-> Result<()> {
    let lab = l2(2)?;
    let mut servers = web_servers(&lab)?;
    let (alertmanager, receiver) = (at(&lab, 9093)?, at(&lab, 9094)?);
    let text = format!(
        "[[node.webhook]]\nname = \"on-call\"\nurl = \"http://{alertmanager}\"\n\
         kind = \"alertmanager\"\n\
         [[node.webhook]]\nname = \"chat\"\nurl = \"http://{receiver}/hook\"\nkind = \"json\"\n\
         {}",
        Service::web_l2(&lab).toml()
    );
    let mut balancer = serving(&lab, &text)?;
    for backend in ["backend0", "backend1"] {
        balancer.wait_backend("web", backend, "up")?;
    }
    // Nobody is there to be told.
    servers[0].server.stop()?;
    for webhook in ["on-call", "chat"] {
        let failed = format!("balancer_webhook_failed_tries_total{{webhook=\"{webhook}\"}}");
        wait_sample(&lab, &failed, |it| it.is_some_and(|it| it > 0.0))?;
    }
    let directory = Scratch::create("alertmanager")?;
    let _alertmanager = start_alertmanager(&lab, alertmanager, directory.path())?;
    let chat = Receiver::start(&lab, receiver)?;
    // One that is there and cannot take it is tried again, too.
    chat.0.set_healthy(false)?;
    let refused = chat.wait("opened", 0)?.len();
    chat.0.set_healthy(true)?;
    let told = chat.wait("opened", refused)?.len();
    let fires = wait_for("the alert", LIMIT, || firing(&lab, alertmanager)?)
        .with_context(|| balancer.log())?;
    ensure!(fires["status"]["state"] == "active", "{fires:#}");

    // The next daemon goes on with the incident, and sees its end.
    balancer.kill()?;
    balancer.restart()?;
    let fires = wait_for("the same alert", LIMIT, || firing(&lab, alertmanager)?)?;
    ensure!(fires["status"]["state"] == "active", "{fires:#}");
    servers[0].server.restart()?;
    balancer.wait_backend("web", "backend0", "up")?;
    wait_for("the end of the alert", LIMIT, || {
        firing(&lab, alertmanager)?.is_none().then_some(())
    })
    .with_context(|| balancer.log())?;
    let bodies = chat.wait("closed", told)?;
    println!(
        "{}",
        bodies.last().map_or(Value::Null, |it| it["text"].clone())
    );
    wait_sample(
        &lab,
        "balancer_webhook_messages_waiting{webhook=\"chat\"}",
        |it| it == Some(0.0),
    )?;
    Ok(())
}
