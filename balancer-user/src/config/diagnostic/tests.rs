use super::super::check::rules;
use super::*;

const TEXT: &str = "[node]\n# ä\nname = \"ä\" # x\nseed = 5\n";

fn report() -> Report {
    let at = |text: &str| {
        let start = TEXT.find(text).unwrap();
        Some(start..start + text.len())
    };
    let findings = vec![
        Finding::new(
            &rules::WRONG_TYPE,
            "node.seed",
            "node: `seed` is an integer",
        )
        .at(at("5"))
        .help("write a string")
        .related(at("name"), "beside this"),
        Finding {
            allowed: Some("on purpose".to_owned()),
            ..Finding::new(&rules::SINGLE_BACKEND, "service.web", "service web: one")
        }
        .at(at("# x")),
        Finding::new(&rules::NO_SERVICES, "", "nothing here"),
    ];
    Report::new("dir/a b.toml", TEXT, findings)
}

#[test]
fn findings_are_rendered_as_a_compiler_does() {
    let expected = r#"warning[no-services]: nothing here
--> dir/a b.toml

allowed[single-backend]: service web: one
 --> dir/a b.toml:3:12
  |
3 | name = "ä" # x
  |            ^^^
  |
  = note: allowed: on purpose

error[wrong-type]: node: `seed` is an integer
 --> dir/a b.toml:4:8
  |
4 | seed = 5
  |        ^
  |
 ::: dir/a b.toml:3:1
  |
3 | name = "ä" # x
  | ---- beside this
  |
  = help: write a string

"#;
    let plain = report().render(false);
    assert_eq!(
        plain
            .replace(" \n", "\n")
            .replace("\n --> dir/a b.toml\n", "\n--> dir/a b.toml\n"),
        expected
    );
    assert!(!plain.contains('\u{1b}'));
    assert!(report().render(true).contains('\u{1b}'));
}

#[test]
fn allowed_findings_are_counted_apart() {
    let report = report();
    assert_eq!(
        (report.errors(), report.warnings(), report.allowed()),
        (1, 1, 1)
    );
    assert!(report.has_errors());
    assert_eq!(
        report.summary(),
        "dir/a b.toml: 1 error, 1 warning, 1 allowed"
    );
}

#[test]
fn json_has_places_in_characters_and_null_where_there_is_none() {
    let json = report().to_json();
    assert_eq!(json["errors"], 1);
    let nowhere = &json["findings"][0];
    assert!(nowhere["line"].is_null() && nowhere["help"].is_null());
    let allowed = &json["findings"][1];
    assert_eq!(
        (&allowed["line"], &allowed["column"], &allowed["end_column"]),
        (&3.into(), &12.into(), &15.into())
    );
    assert_eq!(allowed["allowed"], "on purpose");
    let error = &json["findings"][2];
    assert_eq!(error["rule"], "wrong-type");
    assert_eq!(error["level"], "error");
    assert_eq!(error["path"], "node.seed");
    assert_eq!(error["file"], "dir/a b.toml");
    assert_eq!(error["related"][0]["label"], "beside this");
}

#[test]
fn sarif_names_its_rules_and_suppresses_what_is_allowed() {
    let sarif = report().to_sarif();
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().unwrap();
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    for result in results {
        assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]));
        assert!(result["message"]["text"].is_string());
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "dir/a%20b.toml");
    }
    let place = |index: usize| &results[index]["locations"][0]["physicalLocation"]["region"];
    assert!(place(0).is_null());
    assert_eq!(place(1)["startColumn"], 12);
    assert_eq!(results[1]["suppressions"][0]["justification"], "on purpose");
    assert_eq!(
        results[2]["relatedLocations"][0]["physicalLocation"]["region"]["startLine"],
        3
    );
}

#[test]
fn spans_beyond_the_text_and_endless_lines_do_no_harm() {
    let long = "x".repeat(10_000);
    for (text, span) in [
        ("", 0..0),
        ("", 5..9),
        ("ab\n", 2..3),
        ("ab\n", 3..3),
        ("a\nb\nc", 0..5),
        ("ä", 1..1),
        (long.as_str(), 9000..9001),
    ] {
        let finding = Finding::new(&rules::SYNTAX, "", "m").at(Some(span.clone()));
        let report = Report::new("f", text, vec![finding]);
        let shown = report.render(false);
        assert!(shown.starts_with("error[syntax]: m"), "{shown}");
        assert!(shown.len() < 1000, "{}", shown.len());
        report.to_json();
        report.to_sarif();
    }
}
