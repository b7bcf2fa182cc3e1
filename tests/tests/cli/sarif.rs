//! `balancer check --format sarif`, judged by the schema of SARIF 2.1.0.
//!
//! `tests/data/sarif-schema-2.1.0.json` is the schema of the OASIS committee,
//! in its form for JSON Schema draft 7.

use jsonschema::Validator;
use serde_json::Value;

use super::{FILE, Scratch, balancer, run};

const SCHEMA: &str = include_str!("../../data/sarif-schema-2.1.0.json");

fn schema() -> Validator {
    // The pattern of a run's language, which no log of ours has, carries a
    // bracket too many, and strict readers of patterns refuse it.
    let mended = SCHEMA.replace("[a-zA-Z]{2}]?$", "[a-zA-Z]{2}$");
    assert_ne!(mended, SCHEMA);
    let schema: Value = serde_json::from_str(&mended).unwrap();
    let options = jsonschema::options();
    options
        .should_validate_formats(true)
        .build(&schema)
        .unwrap()
}

fn faults(schema: &Validator, log: &Value) -> Vec<String> {
    let fault =
        |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    schema.iter_errors(log).map(fault).collect()
}

/// The log of a check, and how many results it has.
fn log(scratch: &Scratch, name: &str, text: &str, more: &[&str]) -> (Value, usize) {
    let file = scratch.file(name, text);
    let ran = run(balancer(
        &[&["check", &file, "--format", "sarif"], more].concat(),
    ));
    let log: Value = serde_json::from_str(&ran.stdout).unwrap();
    let results = log["runs"][0]["results"].as_array().unwrap().len();
    (log, results)
}

#[test]
fn every_log_is_valid_by_the_schema() {
    let scratch = Scratch::new();
    let schema = schema();
    let allowed = FILE.replace(
        "forward = \"l2\"\n[[service.backend]]\nname = \"web-1\"",
        "forward = \"l2\"\nallow = [\"single-backend\"]\nallow_reason = \"it is \u{1f980}\"\n\
         [[service.backend]]\nname = \"web-1\"",
    );
    assert_ne!(allowed, FILE);
    let twice = FILE.replace("192.0.2.11", "192.0.2.10");
    // No host has an interface of that name.
    let missing = FILE.replace("\"eth0\"", "\"no-such-0\"");
    for (name, text, more, least) in [
        ("empty.toml", "", &[][..], 1),
        ("syntax.toml", "[node\n= 1\n", &[], 1),
        (
            "unknown.toml",
            "[node]\ninterfaces = [\"eth0\"]\nsed = 1\n",
            &[],
            1,
        ),
        // Related places.
        ("twice.toml", &twice, &[], 2),
        // Suppressions.
        ("allowed.toml", &allowed, &[], 2),
        ("allow.toml", FILE, &["--allow", "single-backend"], 2),
        ("a name \u{e9}[0]%.toml", FILE, &[], 2),
        ("live.toml", &missing, &["--live"], 3),
    ] {
        let (log, results) = log(&scratch, name, text, more);
        assert!(results >= least, "{name}: {log:#}");
        assert_eq!(faults(&schema, &log), [""; 0], "{name}: {log:#}");
    }
}

#[test]
fn schema_refuses_what_is_no_log() {
    let scratch = Scratch::new();
    let schema = schema();
    let (good, _) = log(&scratch, "b.toml", FILE, &[]);
    let spoilt: [fn(&mut Value); 5] = [
        |log| log["version"] = "2.0".into(),
        |log| log["runs"][0]["results"][0]["level"] = "bad".into(),
        |log| log["runs"][0]["results"][0]["colour"] = "red".into(),
        |log| {
            let place = &mut log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
            place["region"]["startLine"] = 0.into();
        },
        |log| {
            let place = &mut log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
            place["artifactLocation"]["uri"] = "a name with blanks".into();
        },
    ];
    for (number, spoil) in spoilt.into_iter().enumerate() {
        let mut log = good.clone();
        spoil(&mut log);
        assert_ne!(faults(&schema, &log), [""; 0], "{number}: {log:#}");
    }
}
