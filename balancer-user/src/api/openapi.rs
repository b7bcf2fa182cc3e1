//! The API as an OpenAPI 3.1 document: paths from the table here, bodies from
//! the types themselves.
//!
//! It is served, and kept as `docs/openapi.json`, which a test compares with
//! it; another one holds the table against the routes of the server.

use std::collections::BTreeMap;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::access::Access;
use super::capture::{CaptureRequest, CaptureStopRequest, Captured};
use super::progress::Progress;
use super::types::{
    ApplyRequest, ChangeRequest, Changed, ExplainRequest, Explanation, History, PlanRequest,
    Planned, RollbackRequest, Said, Status, StoredRevision, TypedProblem, Verification,
};
use crate::watch::incident::Event;

type Body = fn(&mut SchemaGenerator) -> Schema;

const JSON: &str = "application/json";
/// One object a line.
const LINES: &str = "application/x-ndjson";

/// What a route takes and gives.
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    parameter: Option<Parameter>,
    request: Option<Body>,
    media_type: &'static str,
    answer: Body,
}

/// Of a path or a query.
struct Parameter {
    name: &'static str,
    place: &'static str,
    about: &'static str,
    schema: Body,
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn get(path: &'static str, summary: &'static str, answer: Body) -> Operation {
    Operation {
        method: "get",
        path,
        summary,
        parameter: None,
        request: None,
        media_type: JSON,
        answer,
    }
}

const fn post(
    path: &'static str,
    summary: &'static str,
    request: Option<Body>,
    answer: Body,
) -> Operation {
    Operation {
        method: "post",
        request,
        ..get(path, summary, answer)
    }
}

impl Operation {
    const fn of_type(mut self, media_type: &'static str) -> Self {
        self.media_type = media_type;
        self
    }

    const fn with(mut self, parameter: Parameter) -> Self {
        self.parameter = Some(parameter);
        self
    }
}

const OPERATIONS: &[Operation] = &[
    get("/v1/status", "What is going on", of::<Status>),
    get(
        "/v1/events",
        "Openings and ends of incidents, one a line",
        of::<Event>,
    )
    .of_type(LINES)
    .with(Parameter {
        name: "follow",
        place: "query",
        about: "Also those to come, without an end",
        schema: of::<bool>,
    }),
    get("/v1/revisions", "All revisions", of::<History>),
    get(
        "/v1/revisions/{number}",
        "A revision with its configuration",
        of::<StoredRevision>,
    )
    .with(Parameter {
        name: "number",
        place: "path",
        about: "Its number, from 1 on",
        schema: of::<u64>,
    }),
    get(
        "/v1/config",
        "The configuration in force, as a file",
        of::<String>,
    )
    .of_type("text/plain; charset=utf-8"),
    get("/v1/openapi.json", "This document", of::<Value>),
    post(
        "/v1/verify",
        "Compare what the kernel holds with what was written there",
        None,
        of::<Verification>,
    ),
    post(
        "/v1/repair",
        "The same, and write anew what differs, also with repair_drift = false",
        None,
        of::<Verification>,
    ),
    post(
        "/v1/explain",
        "Which backend a flow gets, and why",
        Some(of::<ExplainRequest>),
        of::<Explanation>,
    ),
    post(
        "/v1/capture",
        "Live packets as they came and as they left, one a line, until it is over or the client \
         goes",
        Some(of::<CaptureRequest>),
        of::<Captured>,
    )
    .of_type(LINES),
    post(
        "/v1/capture/stop",
        "End a capture",
        Some(of::<CaptureStopRequest>),
        of::<Said>,
    ),
    post(
        "/v1/changes",
        "Make an everyday change, or say what it would do",
        Some(of::<ChangeRequest>),
        of::<Changed>,
    ),
    post(
        "/v1/plan",
        "Say what a file would do",
        Some(of::<PlanRequest>),
        of::<Planned>,
    ),
    post(
        "/v1/apply",
        "Bring a file into force; what happens is told, one event a line",
        Some(of::<ApplyRequest>),
        of::<Progress>,
    )
    .of_type(LINES),
    post(
        "/v1/reload",
        "Bring the daemon's own file into force",
        None,
        of::<Progress>,
    )
    .of_type(LINES),
    post(
        "/v1/rollback",
        "Bring an earlier revision into force, or undo the change under way",
        Some(of::<RollbackRequest>),
        of::<Progress>,
    )
    .of_type(LINES),
    post(
        "/v1/confirm",
        "The change under way is good",
        None,
        of::<Said>,
    ),
];

/// The document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = of::<TypedProblem>(&mut generator);
    let mut paths: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
    for it in OPERATIONS {
        let described = described(it, &mut generator, &problem);
        paths
            .entry(it.path)
            .or_default()
            .insert(it.method, described);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "balancer",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP/1.1 on the balancer's control socket. Who asks is the kernel's \
                            word: root and members of node.change_group may ask all, members \
                            of node.read_group what only reads. A refusal is a problem (RFC \
                            9457), and nothing has changed then.",
        },
        "paths": paths,
        "components": {"schemas": generator.take_definitions(true)},
    })
}

fn described(it: &Operation, generator: &mut SchemaGenerator, problem: &Schema) -> Value {
    let method = axum::http::Method::from_bytes(it.method.to_uppercase().as_bytes());
    let access = method.map(|method| Access::needed(&method, it.path));
    let group = match access {
        Ok(Access::Read) => "node.read_group or node.change_group",
        _ => "node.change_group",
    };
    let mut described = json!({
        "summary": it.summary,
        "description": format!("For root and members of {group}."),
        "responses": {
            "200": {
                "description": "done",
                "content": {it.media_type: {"schema": (it.answer)(generator)}},
            },
            "default": {
                "description": "refused",
                "content": {"application/problem+json": {"schema": problem}},
            },
        },
    });
    if let Some(parameter) = &it.parameter {
        described["parameters"] = json!([{
            "name": parameter.name,
            "in": parameter.place,
            "required": parameter.place == "path",
            "description": parameter.about,
            "schema": (parameter.schema)(generator),
        }]);
    }
    if let Some(request) = it.request {
        described["requestBody"] = json!({
            "required": true,
            "content": {JSON: {"schema": request(generator)}},
        });
    }
    described
}

/// The document as a file.
pub fn text() -> String {
    let mut text = format!("{:#}", document());
    text.push('\n');
    text
}

pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, JSON)], text()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::server::routes;

    #[test]
    fn every_route_of_the_server_is_in_the_document_and_no_other() {
        let served: BTreeSet<(&str, &str)> =
            routes().iter().map(|it| (it.method, it.path)).collect();
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let told = paths.iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(|method| (method.as_str(), path.as_str()))
        });
        assert_eq!(told.collect::<BTreeSet<_>>(), served);
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn look(value: &Value, document: &Value, seen: &mut usize) {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(target)) = object.get("$ref") {
                        let place = target.strip_prefix('#').unwrap();
                        assert!(document.pointer(place).is_some(), "{target}");
                        *seen += 1;
                    }
                    object.values().for_each(|it| look(it, document, seen));
                }
                Value::Array(array) => array.iter().for_each(|it| look(it, document, seen)),
                _ => {}
            }
        }
        let (document, mut seen) = (document(), 0);
        look(&document, &document, &mut seen);
        assert!(seen > 30, "{seen}");
    }

    #[test]
    fn kept_file_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let wanted = text();
        if std::env::var_os("BALANCER_WRITE_OPENAPI").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == wanted,
            "docs/openapi.json is not what the types say; run this test with \
             BALANCER_WRITE_OPENAPI=1 and commit it"
        );
    }
}
