//! The served OpenAPI document, as something that answers are held against.

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};

use crate::process::Answer;

pub(crate) struct Contract {
    document: Value,
}

impl Contract {
    pub(crate) fn new(document: &Value) -> Self {
        assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{document}");
        Self { document: document.clone() }
    }

    /// Fails the test unless the document knows the route, the status of the answer, and its shape.
    #[track_caller]
    pub(crate) fn check(&self, method: &Method, path: &str, answer: &Answer) {
        let path = path.split('?').next().unwrap_or_default();
        let method = method.as_str().to_ascii_lowercase();
        let Some((template, operation)) = self.find(&method, path) else {
            // What is not documented may only be refused.
            let refused = [404, 405].contains(&answer.status.as_u16());
            assert!(refused, "{method} {path} answers {} and is not documented", answer.status);
            return;
        };
        let status = answer.status.as_u16().to_string();
        let response = &operation["responses"][&status];
        assert!(response.is_object(), "{method} {template} does not document {status}: {}", answer.text);
        let schema = &self.resolve(response)["content"]["application/json"]["schema"];
        let is_json = answer.headers.get("content-type").is_some_and(|kind| kind == "application/json");
        if schema.is_object() && is_json {
            let schema = json!({ "allOf": [schema], "components": self.document["components"] });
            let validator = Validator::new(&schema).unwrap();
            let body = answer.json();
            let faults: Vec<_> =
                validator.iter_errors(&body).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(faults.is_empty(), "{method} {template} {status}: {faults:?} in {body}");
        }
    }

    fn find(&self, method: &str, path: &str) -> Option<(&String, &Value)> {
        let paths = self.document["paths"].as_object()?;
        // A literal path goes before one with parameters, as in the router.
        let mut matching: Vec<_> = paths.iter().filter(|(template, _)| matches(template, path)).collect();
        matching.sort_by_key(|(template, _)| template.matches('{').count());
        matching.into_iter().find_map(|(template, item)| {
            let operation = &item[method];
            operation.is_object().then_some((template, operation))
        })
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
            Some(pointer) => self.document.pointer(pointer).unwrap_or(value),
            None => value,
        }
    }
}

fn matches(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(t), Some(p)) if t == p || (t.starts_with('{') && !p.is_empty()) => {}
            _ => return false,
        }
    }
}
