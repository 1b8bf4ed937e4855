//! What the OpenAPI document says of the path of a request, looked up before the request is routed.

use std::collections::HashMap;

use http::Method;
use management::{Permission, Problem};
use serde_json::{Value, json};

use crate::direct::Direct;
use crate::openapi::PERMISSION;

/// The documented paths.
#[derive(Default)]
pub(crate) struct Paths {
    router: matchit::Router<usize>,
    paths: Vec<Documented>,
}

/// One documented path.
pub(crate) struct Documented {
    /// With its parameters in braces.
    pub(crate) template: String,
    operations: Vec<Operation>,
    /// What answers `GET` here without the router.
    pub(crate) direct: Option<Direct>,
}

struct Operation {
    method: Method,
    /// The parameters that it takes in the query.
    queries: Vec<String>,
    guard: Guard,
}

/// Whom an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Whoever asks.
    Public,
    /// Whoever has this permission.
    Needs(Permission),
    /// Nobody: what says nothing of it.
    Closed,
}

impl Guard {
    /// What the document says of an operation.
    fn of(operation: &Value) -> Self {
        match operation[PERMISSION].as_str() {
            Some(name) => Permission::named(name).map_or(Self::Closed, Self::Needs),
            None if operation["security"] == json!([]) => Self::Public,
            None => Self::Closed,
        }
    }
}

/// Which path a request asks for.
pub(crate) struct Found<'a> {
    /// The path's number.
    pub(crate) at: usize,
    pub(crate) path: &'a Documented,
    /// The value of its last parameter, percent-encoded.
    pub(crate) param: &'a str,
}

impl Paths {
    /// Those of a document, and what answers some of them directly.
    pub(crate) fn of(document: &Value, mut direct: HashMap<&'static str, Direct>) -> Self {
        let mut all = Self::default();
        for (template, item) in document["paths"].as_object().into_iter().flatten() {
            if let Err(error) = all.router.insert(template.as_str(), all.paths.len()) {
                tracing::error!(template, %error, "path cannot be looked up");
                continue;
            }
            let operations = item.as_object().into_iter().flatten().filter_map(|(method, operation)| {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let queries = parameters.filter(|parameter| parameter["in"] == "query");
                Some(Operation {
                    method: method.to_ascii_uppercase().parse().ok()?,
                    queries: queries.filter_map(|query| query["name"].as_str().map(str::to_owned)).collect(),
                    guard: Guard::of(operation),
                })
            });
            all.paths.push(Documented {
                template: template.clone(),
                operations: operations.collect(),
                direct: direct.remove(template.as_str()),
            });
        }
        all
    }

    pub(crate) fn find<'a>(&'a self, path: &'a str) -> Option<Found<'a>> {
        let matched = self.router.at(path).ok()?;
        let at = *matched.value;
        let param = matched.params.iter().last().map_or("", |(_, value)| value);
        Some(Found { at, path: self.paths.get(at)?, param })
    }

    /// The template of the path of this number.
    pub(crate) fn template(&self, at: usize) -> Option<&str> {
        self.paths.get(at).map(|path| path.template.as_str())
    }
}

impl Documented {
    /// Whom the operation of this method is for, if there is one.
    pub(crate) fn guard(&self, method: &Method) -> Option<Guard> {
        self.operation(method).map(|operation| operation.guard)
    }

    fn operation(&self, method: &Method) -> Option<&Operation> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.operations.iter().find(|operation| operation.method == *method)
    }

    /// Refuses parameters that the document does not name: a misspelt one is not one left out.
    pub(crate) fn check_query(&self, method: &Method, query: &str) -> Result<(), Problem> {
        let Some(operation) = self.operation(method) else { return Ok(()) };
        if percent_encoding::percent_decode_str(query).decode_utf8().is_err() {
            return Err(Problem::malformed("the query cannot be read as UTF-8"));
        }
        let unknown = form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| !operation.queries.iter().any(|known| known == name));
        let Some((name, _)) = unknown else { return Ok(()) };
        let detail = match operation.queries.as_slice() {
            [] => "is unknown; this path takes no parameters".to_owned(),
            known => format!("is unknown; this path takes `{}`", known.join("`, `")),
        };
        Err(Problem::invalid(name.chars().take(256).collect::<String>(), detail))
    }
}
