//! Requests for what is not served.

use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::{Route, answer, routes};
use crate::api::types::Problem;

pub(super) async fn unknown() -> Response {
    let served = |route: Route| format!("{} {}", route.method.to_uppercase(), route.path);
    let paths: Vec<String> = routes().into_iter().map(served).collect();
    answer::<()>(Err(Problem {
        title: "not found".to_owned(),
        status: StatusCode::NOT_FOUND.as_u16(),
        detail: format!("this version serves {}", paths.join(", ")),
    }))
}

pub(super) async fn wrong_method(method: Method) -> Response {
    answer::<()>(Err(Problem {
        title: "method not allowed".to_owned(),
        status: StatusCode::METHOD_NOT_ALLOWED.as_u16(),
        detail: format!("{method} is not served here; /v1/openapi.json says what is"),
    }))
}
