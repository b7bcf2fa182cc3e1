use super::*;
use crate::config::examine;

const FILE: &str = r#"[node]
interfaces = ["eth0"]
[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
forward = "ipip"
fail_open_below = 0
[service.health]
kind = "http"
port = 8080
identity = { body = "web" }
"#;

fn backend(number: usize, more: &str) -> String {
    format!("[[service.backend]]\nname = \"web-{number}\"\naddress = \"10.0.0.{number}\"\n{more}\n")
}

fn four() -> String {
    (1..=4).map(|number| backend(number, "")).collect()
}

fn config(backends: &str) -> Config {
    let examined = examine("a.toml", format!("{FILE}{backends}"), None);
    let shown = examined.report.render(false);
    examined.config.expect(&shown)
}

/// Roles and addresses of who is asked, siblings first.
fn asked(before: &str, after: &str, down: &[&str]) -> Vec<String> {
    let is_up = |id: &TargetId| !down.contains(&id.backend.as_str());
    let chosen = choose(&config(before), &config(after), is_up);
    assert_eq!(chosen.left_out, 0);
    let seats = chosen.panels.iter().flat_map(|panel| &panel.seats);
    seats
        .map(|seat| format!("{:?} {} at {}", seat.role, seat.backend, seat.address))
        .collect()
}

const NONE: [String; 0] = [];

#[test]
fn new_backend_is_asked_on_the_services_port_with_three_siblings() {
    let after = four() + &backend(5, "");
    assert_eq!(
        asked(&four(), &after, &[]),
        [
            "Sibling web-1 at 10.0.0.1:80",
            "Sibling web-2 at 10.0.0.2:80",
            "Sibling web-3 at 10.0.0.3:80",
            "New web-5 at 10.0.0.5:80",
        ]
    );
    assert_eq!(
        asked(&four(), &after, &["web-1", "web-2", "web-3"]),
        ["Sibling web-4 at 10.0.0.4:80", "New web-5 at 10.0.0.5:80"]
    );
}

#[test]
fn siblings_are_from_all_over_a_long_list() {
    let many: String = (1..=9).map(|number| backend(number, "")).collect();
    let found = asked(&many, &(many.clone() + &backend(10, "")), &[]);
    assert_eq!(
        found[..3],
        [
            "Sibling web-1 at 10.0.0.1:80",
            "Sibling web-4 at 10.0.0.4:80",
            "Sibling web-7 at 10.0.0.7:80",
        ]
    );
}

#[test]
fn raised_weight_and_undrain_are_asked_and_another_address_is_new() {
    let with = |more: &str| four().replace("10.0.0.4\"\n", &format!("10.0.0.4\"\n{more}\n"));
    let last = |found: Vec<String>| found.last().cloned().unwrap_or_default();
    let raised = asked(&four(), &with("weight = 200"), &[]);
    assert_eq!(last(raised), "Raised web-4 at 10.0.0.4:80");
    let undrained = asked(&with("drain = true"), &four(), &[]);
    assert_eq!(last(undrained), "New web-4 at 10.0.0.4:80");
    let moved = four().replace("10.0.0.4", "10.0.0.44");
    assert_eq!(
        last(asked(&four(), &moved, &[])),
        "New web-4 at 10.0.0.44:80"
    );
}

#[test]
fn who_gains_because_a_sibling_goes_is_not_asked() {
    let three: String = (1..=3).map(|number| backend(number, "")).collect();
    assert_eq!(asked(&four(), &three, &[]), NONE);
    for more in ["drain = true", "weight = 10"] {
        let after = four().replace("10.0.0.4\"\n", &format!("10.0.0.4\"\n{more}\n"));
        assert_eq!(asked(&four(), &after, &[]), NONE, "{more}");
    }
    // All weights tenfold: nobody's share rises.
    let tenfold = four().replace("\"\n\n", "\"\nweight = 1000\n\n");
    assert_eq!(asked(&four(), &tenfold, &[]), NONE);
}

#[test]
fn servers_that_go_stand_in_where_none_stays() {
    let others: String = (5..=6).map(|number| backend(number, "")).collect();
    assert_eq!(
        asked(&four(), &others, &["web-1"]),
        [
            "Sibling web-2 at 10.0.0.2:80",
            "Sibling web-3 at 10.0.0.3:80",
            "Sibling web-4 at 10.0.0.4:80",
            "New web-5 at 10.0.0.5:80",
            "New web-6 at 10.0.0.6:80",
        ]
    );
    let all_down = ["web-1", "web-2", "web-3", "web-4"];
    assert_eq!(asked(&four(), &others, &all_down), NONE);
}

#[test]
fn nobody_is_asked_where_the_file_says_so_or_nothing_can_be_asked() {
    let after = four() + &backend(5, "");
    for (from, to) in [
        ("kind = \"http\"\n", "kind = \"http\"\ncompare = []\n"),
        (
            "kind = \"http\"\nport = 8080\nidentity = { body = \"web\" }\n",
            "kind = \"tcp\"\n",
        ),
        ("protocol = \"tcp\"", "protocol = \"udp\""),
    ] {
        let read = |backends: &str| {
            let text = format!("{FILE}{backends}").replace(from, to);
            let examined = examine("a.toml", &text, None);
            let shown = examined.report.render(false);
            examined.config.expect(&shown)
        };
        let chosen = choose(&read(&four()), &read(&after), |_| true);
        assert_eq!(chosen, Panels::default(), "{to}");
    }
}

#[test]
fn large_change_asks_those_whose_share_rises_most() {
    let many: String = (1..=10).map(|number| backend(number, "")).collect();
    let new: String = (11..=110)
        .map(|number| backend(number, &format!("weight = {}", 100 + number)))
        .collect();
    let chosen = choose(&config(&many), &config(&(many.clone() + &new)), |_| true);
    assert_eq!(chosen.left_out, 100 - MAX_SUBJECTS);
    let seats = &chosen.panels[0].seats;
    assert_eq!(seats.len(), MAX_SIBLINGS + MAX_SUBJECTS);
    assert_eq!(seats[MAX_SIBLINGS].backend, "web-110");
    assert_eq!(seats.last().unwrap().backend, "web-47");
}
