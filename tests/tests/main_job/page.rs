//! The status page in a real browser: what it shows is what the balancer says,
//! it lives without a reload, and keyboards and screen readers can use it.
//!
//! With `BALANCER_PICTURES` set to a directory, the pictures of the
//! documentation are written there.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::client::{Browser, Curl, Scheme};
use balancer_tests::lab::{Lab, wait_for};
use balancer_user::watch::Kind;
use balancer_user::watch::incident::Incident;
use serde_json::Value;

use crate::LIMIT;
use crate::fixture::{Service, balancer, l2, load_of, wait_answers, web_servers};
use crate::incidents::{closed, opened};
use crate::verify::Kernel;

/// Where the page is served.
const PORT: u16 = 9180;

fn at(lab: &Lab) -> SocketAddr {
    SocketAddr::new(lab.balancer().v4().into(), PORT)
}

fn serving<'a>(lab: &'a Lab, text: &str) -> Result<Balancer<'a>> {
    balancer(lab, &format!("listen = \"{}\"\n{text}", at(lab)))
}

/// The page of a lab's balancer, open at the first client.
fn opened_page(lab: &Lab, query: &str) -> Result<Browser> {
    let mut browser = Browser::start(lab.client(0).namespace(), 1280, 900)?;
    browser.open(&format!("http://{}/{query}", at(lab)))?;
    let updates = "Number(document.body.dataset.updates) > 1";
    browser.wait("two updates of the page", updates)?;
    Ok(browser)
}

/// The text of a cell of a backend's row, by the heading of its column.
fn cell(browser: &mut Browser, service: &str, backend: &str, column: &str) -> Result<String> {
    let value = browser.evaluate(&format!(
        "(() => {{
            const table = document.querySelector('tbody[data-service=\"{service}\"] table');
            const heads = [...table.tHead.rows[0].cells].map((it) => it.textContent);
            const row = [...table.tBodies[0].rows]
                .find((it) => it.cells[0].textContent === {backend:?});
            return row.cells[heads.indexOf({column:?})].innerText.trim();
        }})()"
    ))?;
    let text = value.as_str().map(ToOwned::to_owned);
    text.with_context(|| format!("{service} {backend} {column}: {value}"))
}

fn percent(text: &str) -> Result<f64> {
    let digits = text.trim_end_matches(" %");
    digits.parse().with_context(|| format!("no share: {text}"))
}

fn insist_on_no_complaint(browser: &mut Browser) -> Result<()> {
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}

/// Keeps a picture for the documentation, if that is wanted.
pub(crate) fn keep(picture: &[u8], name: &str) -> Result<()> {
    let Some(directory) = pictures() else {
        return Ok(());
    };
    let path = directory.join(name);
    std::fs::write(&path, picture).with_context(|| path.display().to_string())
}

pub(crate) fn pictures() -> Option<PathBuf> {
    std::env::var_os("BALANCER_PICTURES").map(PathBuf::from)
}

/// Goes on until there is a past to look at: revisions and minutes of traffic.
fn pose(balancer: &Balancer<'_>, browser: &mut Browser) -> Result<()> {
    for round in 0..3 {
        let weight = (80 + 10 * round).to_string();
        balancer.succeed(&["backend", "weight", "web", "backend3", &weight])?;
        balancer.succeed(&["backend", "drain", "shop", "backend1"])?;
        balancer.succeed(&["backend", "undrain", "shop", "backend1"])?;
    }
    let minutes = "Number(document.body.dataset.updates) > 120";
    wait_for("minutes of traffic", Duration::from_secs(300), || {
        let value = browser.evaluate(minutes).ok()?;
        (value == Value::Bool(true)).then_some(())
    })
}

/// Two services on the same servers.
pub(crate) fn web_and_shop(lab: &Lab) -> [Service; 2] {
    let web = Service::web_l2(lab);
    let mut vips = lab.vips().into_iter().filter(IpAddr::is_ipv4);
    let shop = Service {
        name: "shop",
        address: vips.nth(1).unwrap_or(web.address),
        backends: web.backends[..2].to_vec(),
        ..web.clone()
    };
    [web, shop]
}

/// Two services in full, with all that is known of them.
fn insist_on_good_health(browser: &mut Browser) -> Result<()> {
    let good =
        "document.querySelector('#headline.good')?.textContent.includes('2 services are up')";
    browser.wait("a headline that all is well", good)?;
    // Few services are shown in full.
    let backends =
        "document.querySelectorAll('tbody[data-service=web] table tbody tr').length === 4";
    browser.wait("four backends of web", backends)?;
    ensure!(cell(browser, "web", "backend2", "state")? == "up");
    let timed = "[...document.querySelectorAll('tbody[data-service=web] table tbody tr')]
        .every((it) => / (µs|ms|s)$/.test(it.cells[10].textContent)
            && / (µs|ms|s)$/.test(it.cells[11].textContent))";
    browser.wait("times of handshakes and probes", timed)?;
    let line = "document.querySelector('tbody[data-service=web] svg .stroke')
        .getAttribute('d').split('L').length > 3";
    browser.wait("a time line", line)?;
    Ok(())
}

/// An incident with its words.
fn insist_on_card(browser: &mut Browser, incident: &Incident) -> Result<()> {
    let card = format!(
        "[...document.querySelectorAll('.incident')]
            .find((it) => it.dataset.incident === '{}')?.innerText || ''",
        incident.number
    );
    browser.wait("the incident", &format!("({card}).length > 0"))?;
    let said = browser.evaluate(&card)?;
    let said = said.as_str().unwrap_or_default();
    // Commands in it are shown as such.
    let cause = incident.cause.replace('`', "");
    let since = incident.since.as_ref().context("no revision")?;
    let parts = [
        "skew",
        "service web, backend backend2",
        &cause,
        &incident.command,
        &format!("Revision {} by {}", since.revision, since.author),
    ];
    for part in parts {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    let bad = "document.querySelector('#headline.bad') !== null";
    browser.wait("a headline that says what is wrong", bad)?;
    Ok(())
}

/// What the balancer says of the service `web`, and of no other.
fn insist_on_figures(browser: &mut Browser, balancer: &Balancer<'_>) -> Result<()> {
    let most = wait_for("the share of the one that gets most", 4 * LIMIT, || {
        let seen = percent(&cell(browser, "web", "backend2", "seen").ok()?).ok()?;
        (seen > 55.0).then_some(seen)
    })?;
    let slots = cell(browser, "web", "backend2", "expected")?;
    let told = balancer.status()?;
    let written = &told.services[0].backends[2];
    ensure!(
        slots == format!("{:.1} %", written.share_expected * 100.0),
        "{slots}: {written:?}"
    );
    ensure!(most < 95.0, "{most}");
    let marked = "[...document.querySelectorAll('tbody[data-service=web] .bar.isoff')].length >= 1
        && document.querySelector('tbody[data-service=shop] .bar.isoff') === null";
    browser.wait("the mark of what is off, and of nothing else", marked)?;
    Ok(())
}

/// Both colours, and a small screen.
fn look_at_colours(browser: &mut Browser) -> Result<()> {
    browser.prefer(Scheme::Light)?;
    let light = browser.screenshot()?;
    browser.prefer(Scheme::Dark)?;
    let back = browser.evaluate("getComputedStyle(document.body).backgroundColor")?;
    ensure!(back == "rgb(14, 17, 22)", "{back}");
    let dark = browser.screenshot()?;
    ensure!(light.starts_with(b"\x89PNG") && dark.starts_with(b"\x89PNG") && light != dark);
    keep(&light, "page-light.png")?;
    keep(&dark, "page-dark.png")?;
    // Nothing is wider than a telephone but tables, which scroll.
    browser.resize(400, 900)?;
    let wide = browser.evaluate("document.documentElement.scrollWidth")?;
    ensure!(wide == 400, "{wide}");
    keep(&browser.screenshot()?, "page-narrow.png")?;
    Ok(())
}

#[test]
fn skewed_service_is_shown_with_its_figures_as_they_change() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let services = web_and_shop(&lab);
    let mut text =
        String::from("table_size = 4099\nrepair_drift = false\nhandshake_sample = 1.0\n");
    for service in &services {
        writeln!(text, "{}", service.toml())?;
    }
    let balancer = serving(&lab, &text)?;
    let start = |service: &Service, pause| {
        let mut load = load_of(&lab, service.dial());
        load.concurrency = 12;
        load.timeout = Duration::from_secs(2);
        load.pause = Duration::from_millis(pause);
        load.start(lab.client(0).namespace())
    };
    let load = start(&services[0], 30)?;
    let others = start(&services[1], 60)?;
    wait_answers(&load, 300)?;

    let mut browser = opened_page(&lab, "")?;
    browser.evaluate("window.isTheSamePage = true")?;
    insist_on_good_health(&mut browser)?;

    // A change and what comes of it arrive without a reload.
    balancer.succeed(&["backend", "weight", "web", "backend1", "50"])?;
    let revision = "document.querySelector('#revisions tr').innerText.includes('in force')
        && document.querySelector('#revisions th').textContent === '2'";
    browser.wait("the second revision", revision)?;
    let expected = "[...document.querySelectorAll('tbody[data-service=web] table tbody tr')]
        .find((it) => it.cells[0].textContent === 'backend1').cells[4].textContent === '14.3 %'";
    browser.wait("the share of half the weight", expected)?;
    balancer.succeed(&["backend", "weight", "web", "backend1", "100"])?;
    wait_answers(&load, 1000)?;
    if pictures().is_some() {
        pose(&balancer, &mut browser)?;
    }

    Kernel::of(&balancer)?.change_slots_of_many(6)?;
    let incident = opened(&balancer, Kind::Skew, Some("backend2"))?;
    insist_on_card(&mut browser, &incident)?;
    insist_on_figures(&mut browser, &balancer)?;
    look_at_colours(&mut browser)?;

    load.stop()?;
    others.stop()?;
    closed(&balancer, incident.number)?;
    let over = "document.querySelector('#closed')?.innerText.includes('skew service web')";
    browser.wait("the incident among those that are over", over)?;
    ensure!(
        browser.evaluate("window.isTheSamePage")? == Value::Bool(true),
        "it was loaded anew"
    );
    insist_on_no_complaint(&mut browser)
}

#[test]
fn thousand_services_are_found_by_filter_page_and_keyboard() -> Result<()> {
    let lab = l2(2)?;
    let mut text = String::from("table_size = 251\n");
    for number in 0..1000 {
        let service = Service {
            port: 10_000 + number,
            health: "",
            ..Service::web_l2(&lab)
        };
        let name = format!("name = \"service-{number:04}\"");
        writeln!(
            text,
            "{}",
            service.toml().replacen("name = \"web\"", &name, 1)
        )?;
    }
    let balancer = serving(&lab, &text)?;
    let mut browser = opened_page(&lab, "?sort=name")?;
    let rows = "document.querySelectorAll('tbody[data-service]').length";
    browser.wait("the first fifty", &format!("{rows} === 50"))?;
    let elements = browser.evaluate("document.querySelectorAll('*').length")?;
    ensure!(elements.as_u64().is_some_and(|it| it < 3000), "{elements}");
    let count = browser.evaluate("document.querySelector('#count').textContent")?;
    ensure!(count == "1000 services", "{count}");

    // By keyboard alone: the next page, a filter, a service in full.
    browser.evaluate("document.querySelector('#next').focus()")?;
    browser.press("Enter")?;
    let second =
        "document.querySelector('tbody[data-service] button').textContent === 'service-0050'";
    browser.wait("the second page", second)?;
    browser.press("/")?;
    let focus = browser.evaluate("document.activeElement.id")?;
    ensure!(focus == "filter", "{focus}");
    browser.type_in("service-0777")?;
    let one = format!("{rows} === 1");
    browser.wait("the one that is looked for", &one)?;
    browser.evaluate("document.querySelector('tbody[data-service] button').focus()")?;
    browser.press("Enter")?;
    let full = "document.activeElement.getAttribute('aria-expanded') === 'true'
        && document.querySelectorAll('tbody[data-service=service-0777] table tbody tr').length === 2";
    browser.wait("its backends", full)?;
    let kept = browser.evaluate("location.search")?;
    let kept = kept.as_str().unwrap_or_default();
    ensure!(
        kept.contains("filter=service-0777") && kept.contains("unfolded=service-0777"),
        "{kept}"
    );
    browser.press("Enter")?;
    let folded = "document.activeElement.getAttribute('aria-expanded') === 'false'
        && document.querySelector('tbody[data-service] table') === null";
    browser.wait("it to be folded", folded)?;

    // What a screen reader is told.
    let told = browser.accessibility()?;
    let is_told = |role: &str, name: &str| {
        told.iter()
            .any(|(its_role, its_name)| its_role == role && its_name.contains(name))
    };
    for (role, name) in [
        ("banner", ""),
        ("main", ""),
        ("contentinfo", ""),
        ("search", ""),
        ("region", "Services"),
        ("table", "Services with state"),
        ("columnheader", "service"),
        ("rowheader", "service-0777"),
        ("button", "service-0777"),
        ("searchbox", "Filter by name or address"),
        ("image", "new flows of service-0777, last 3 minutes"),
        ("status", ""),
        ("link", "Skip to the services"),
    ] {
        ensure!(is_told(role, name), "no {role} {name:?} among {told:#?}");
    }
    insist_on_no_complaint(&mut browser)?;
    ensure!(balancer.status()?.services.len() == 1000);
    Ok(())
}

#[test]
fn page_tells_that_the_daemon_is_gone_and_goes_on_with_the_next() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let mut balancer = serving(&lab, &Service::web_l2(&lab).toml())?;
    let mut browser = opened_page(&lab, "")?;
    browser.evaluate("window.isTheSamePage = true")?;
    browser.wait(
        "a live page",
        "document.querySelector('#link.live') !== null",
    )?;
    balancer.kill()?;
    browser.wait(
        "a page that says so",
        "document.querySelector('#link.lost') !== null",
    )?;
    balancer.restart()?;
    browser.wait(
        "a live page again",
        "document.querySelector('#link.live') !== null",
    )?;
    ensure!(browser.evaluate("window.isTheSamePage")? == Value::Bool(true));
    Ok(())
}

#[test]
fn viewers_who_read_nothing_hold_up_nobody() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let balancer = serving(&lab, &Service::web_l2(&lab).toml())?;
    let page = at(&lab);
    let client = lab.client(0).namespace();
    let connect = || -> Result<Vec<std::net::TcpStream>> {
        let ask = |_| {
            use std::io::Write as _;
            let mut stream = std::net::TcpStream::connect(page)?;
            stream.write_all(b"GET /live HTTP/1.1\r\nHost: here\r\n\r\n")?;
            Ok(stream)
        };
        (0..100).map(ask).collect()
    };
    let silent = client.run(connect)??;
    // All places are taken, and everything else is served.
    wait_for("a refusal", LIMIT, || {
        let curl = Curl::get(page, "/live").args(["--max-time", "1"]);
        let answer = curl.run(client).ok()?;
        (answer.status == 503).then_some(())
    })?;
    for path in ["/", "/healthz", "/metrics"] {
        let answer = Curl::get(page, path).run(client)?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
    }
    ensure!(balancer.status()?.services.len() == 1);
    drop(silent);
    opened_page(&lab, "")?;
    Ok(())
}

#[test]
fn page_is_turned_off_and_on_by_a_reload_and_metrics_stay() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab).toml();
    let balancer = serving(&lab, &service)?;
    let client = lab.client(0).namespace();
    let mut browser = opened_page(&lab, "")?;
    for page in [false, true] {
        let node = format!("listen = \"{}\"\npage = {page}\n", at(&lab));
        balancer.write_services(&["eth0"], &format!("{node}{service}"))?;
        balancer.succeed(&["reload"])?;
        let (link, status) = match page {
            true => ("live", 200),
            false => ("lost", 404),
        };
        for path in ["/", "/app.js"] {
            wait_for(&format!("{path} to have status {status}"), LIMIT, || {
                let answer = Curl::get(at(&lab), path).run(client).ok()?;
                (answer.status == status).then_some(())
            })?;
        }
        // A page that is open ends, and goes on.
        let told = format!("document.querySelector('#link.{link}') !== null");
        browser.wait(&format!("a page that is {link}"), &told)?;
        for path in ["/healthz", "/metrics", "/v1/digest"] {
            let answer = Curl::get(at(&lab), path).run(client)?;
            ensure!(answer.status == 200, "{path}: {answer:?}");
        }
    }
    Ok(())
}
