//! The OpenAPI document, and whether answers are as it says.

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex};

use http::Method;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::client::{Answered, bare, get};

/// The document that the API serves.
pub(crate) static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
    let text = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let request = http::Request::get("/openapi.json")
                .body(http_body_util::Full::<bytes::Bytes>::default())
                .unwrap();
            let body = bare().handle(request, None).await.into_body();
            http_body_util::BodyExt::collect(body).await.unwrap().to_bytes()
        })
    });
    Document { json: serde_json::from_slice(&text.join().unwrap()).unwrap(), validators: Mutex::default() }
});

pub(crate) struct Document {
    pub(crate) json: Value,
    validators: Mutex<HashMap<String, Validator>>,
}

impl Document {
    /// The documented path that a request's path is an instance of; one with fewer parameters first.
    fn template(&self, path: &str) -> Option<&str> {
        let segments: Vec<_> = path.split('/').collect();
        let fits = |template: &&String| {
            let parts: Vec<_> = template.split('/').collect();
            parts.len() == segments.len()
                && parts.iter().zip(&segments).all(|(part, segment)| part == segment || part.starts_with('{'))
        };
        let templates = self.json["paths"].as_object().unwrap().keys();
        templates.filter(fits).min_by_key(|template| template.matches('{').count()).map(String::as_str)
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                self.json.pointer(reference.trim_start_matches('#')).expect("what is referred to")
            }
            None => value,
        }
    }

    /// Panics if an answer to a documented operation has a status or a shape that is not documented.
    pub(crate) fn check(&self, method: &Method, path: &str, answered: &Answered) {
        let Some(template) = self.template(path) else { return };
        let operation = &self.json["paths"][template][method.as_str().to_lowercase()];
        if operation.is_null() {
            return;
        }
        let status = answered.status.as_str();
        let response = self.resolve(&operation["responses"][status]);
        assert!(
            !response.is_null(),
            "{method} {template} answered {status}, which is not documented: {:?}",
            answered.body
        );
        let Some(content) = response["content"].as_object() else { return };
        let content_type = answered.header("content-type").split(';').next().unwrap();
        let media = content.iter().find(|(name, _)| name.split(';').next() == Some(content_type));
        let Some((_, media)) = media else {
            panic!("{method} {template}: {content_type} is not among {content:?}")
        };
        if content_type != "application/json" {
            return;
        }
        let mut validators = self.validators.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let validator = validators.entry(format!("{method} {template} {status}")).or_insert_with(|| {
            let mut schema = json!({"components": self.json["components"]});
            schema["allOf"] = json!([media["schema"]]);
            jsonschema::validator_for(&schema)
                .unwrap_or_else(|error| panic!("{method} {template} {status}: {error}"))
        });
        let body = answered.json();
        let errors: Vec<_> =
            validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(
            errors.is_empty(),
            "{method} {template} {status} is not as documented: {errors:#?}\n{body:#}"
        );
    }
}

#[tokio::test]
async fn the_document_is_sound() {
    let document = &DOCUMENT.json;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            let before = ids.insert(id.clone(), format!("{method} {path}"));
            assert!(before.is_none(), "{id} is both {method} {path} and {before:?}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
            for reference in references(operation) {
                assert!(
                    document.pointer(reference.trim_start_matches('#')).is_some(),
                    "{reference} in {method} {path}"
                );
            }
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let named: Vec<_> =
                parameters.iter().filter(|p| p["in"] == "path").map(|p| p["name"].clone()).collect();
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                assert!(named.contains(&part.into()), "{part} of {method} {path} is not described");
            }
        }
    }
    for reference in references(&document["components"]) {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => {
            let own = map.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(map.values().flat_map(references)).collect()
        }
        Value::Array(list) => list.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// The paths of `api.md` that this version has. A path that goes, or comes undocumented, is seen here.
#[tokio::test]
async fn every_route_of_the_api_is_in_the_document() {
    let document = &DOCUMENT.json;
    let mut documented: Vec<String> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        documented.extend(
            item.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())),
        );
    }
    documented.sort();
    insta::assert_snapshot!(documented.join("\n"));
}

/// Every documented operation is there: it answers something other than "no such route".
#[tokio::test]
async fn every_documented_operation_answers() {
    let api = bare();
    for (path, item) in DOCUMENT.json["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if path == "/events/stream" {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let concrete = path.replace("{status}", "pending").replace(['{', '}'], "");
            let answer = crate::client::call(&api, method.clone(), &concrete, "").await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!text.contains("no such route") && answer.status != 405, "{method} {path}: {text}");
        }
    }
}

/// Every write, whatever it is of, is in the audit log once, is done once under a key, and can be tried.
#[tokio::test]
async fn every_write_is_audited_keyed_and_can_be_tried() {
    let task = r#"{"id": "x", "schedule": {"type": "once", "delay": "1h"}}"#;
    let mut audited = 0;
    for (path, item) in DOCUMENT.json["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            // A preview reads, though it needs a body to say what.
            if method == "get" || path == "/scheduler/preview" {
                continue;
            }
            let documented = operation["parameters"].to_string();
            for parameter in ["IdempotencyKey", "DryRun"] {
                assert!(documented.contains(parameter), "{method} {path} does not take {parameter}");
            }
            let body = match path.as_str() {
                "/events" => r#"{"type": "custom.a"}"#,
                "/plugins/load" => r#"{"type": "x"}"#,
                "/scheduler/tasks" | "/scheduler/tasks/{id}" => task,
                _ => "{}",
            };
            let (api, path) = (bare(), path.replace(['{', '}'], ""));
            let method: Method = method.to_uppercase().parse().unwrap();
            let tried =
                crate::client::call(&api, method.clone(), &format!("{path}?dry_run=true"), body).await;
            if tried.status == 422 {
                assert_ne!(tried.json()["error"]["field"], "dry_run", "{method} {path}");
                continue;
            }
            crate::client::call(&api, method.clone(), &path, body).await;
            let log = get(&api, "/audit").await.json();
            assert_eq!(log["data"]["total"], 1, "{method} {path}: {log}");
            let entry = &log["data"]["entries"][0];
            for said in ["time", "caller", "role", "origin", "action", "target", "outcome", "trace_id"] {
                assert!(entry[said].is_string(), "{method} {path}: {said} of {entry}");
            }
            audited += 1;
        }
    }
    assert!(audited >= 20, "{audited}");
}

#[tokio::test]
async fn the_reference_loads_nothing_from_elsewhere() {
    let api = bare();
    let page = get(&api, "/docs").await;
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    for path in ["/docs", "/docs/docs.js", "/docs/style.css"] {
        let answer = get(&api, path).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 200, "{path}");
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("//cdn"), "{path}");
    }
    let html = String::from_utf8_lossy(&page.body).into_owned();
    for asset in html.split('"').filter(|text| text.starts_with("/docs/") || *text == "/openapi.json") {
        assert_eq!(get(&api, asset).await.status, 200, "{asset}");
    }
}

/// As OpenAPI's own validators ask, and as the reference shows them to people as examples.
#[test]
fn every_default_is_a_value_that_its_schema_allows() {
    fn look(at: &Value, path: &str, components: &Value, faults: &mut Vec<String>) {
        if let Some(default) = at.get("default") {
            let schema = json!({ "allOf": [at], "components": components });
            let validator = jsonschema::validator_for(&schema).unwrap();
            faults.extend(validator.iter_errors(default).map(|error| format!("{path}: {error}")));
        }
        match at {
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| look(value, &format!("{path}/{key}"), components, faults));
            }
            Value::Array(list) => list.iter().for_each(|value| look(value, path, components, faults)),
            _ => {}
        }
    }
    let components = &DOCUMENT.json["components"];
    let mut faults = Vec::new();
    look(&components["schemas"], "", components, &mut faults);
    assert!(faults.is_empty(), "{faults:#?}");
}
