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
use balancer_tests::lab::{Lab, Process, wait_for};
use serde_json::Value;

use crate::apply::paced;
use crate::fixture::{Service, l2, wait_answers, web_servers};
use crate::metrics::serving;
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
    let quiet = "route: { receiver: nobody, group_wait: 1s }\nreceivers: [{ name: nobody }]\n";
    fs::write(path("alertmanager.yml"), quiet)?;
    let client = lab.client(0).namespace();
    let mut command = client.command("prometheus-alertmanager");
    command
        .arg(format!("--config.file={}", path("alertmanager.yml")))
        .arg(format!("--storage.path={}", path("alertmanager")))
        .arg(format!("--web.listen-address={alertmanager}"))
        .arg("--cluster.listen-address=");
    let log = directory.path().join("alertmanager.log");
    let second = Process::spawn("prometheus-alertmanager", command, &log)?;
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

impl Watchers<'_> {
    /// What Alertmanager holds now.
    fn alerts(&self) -> Option<Vec<Value>> {
        let curl = Curl::get(self.alertmanager, "/api/v2/alerts");
        let response = curl.run(self.lab.client(0).namespace()).ok()?;
        serde_json::from_str(&response.text()).ok()
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
