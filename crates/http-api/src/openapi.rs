//! The OpenAPI document: made from the handlers, completed with what they have in common.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::{Map, Value, json};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

use management::Permission;

use crate::envelope::{ErrorEnvelope, JSON};
use crate::extract::Ctx;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Gantry management API", description = "Plugins, tasks, events and all that a host runs."),
    components(schemas(ErrorEnvelope)),
    tags(
        (name = "health", description = "Whether the host lives and can serve."),
        (name = "plugins", description = "What runs here, and its lifecycle."),
        (name = "events", description = "What happens: recent events, the live stream, subscriptions."),
        (name = "scheduler", description = "Tasks, their runs, and what runs them."),
        (name = "host", description = "Services, nodes, configuration, the audit log."),
        (name = "access", description = "Who is let in: the caller itself, API tokens."),
        (name = "tour", description = "For people: what this is and how to try it."),
    )
)]
struct Base;

/// The document before the routes are in it.
pub(crate) fn base() -> OpenApi {
    Base::openapi()
}

/// The refusals: status, name of the component, what it means.
const REFUSALS: [(&str, &str, &str); 15] = [
    ("400", "Malformed", "The request cannot be read."),
    ("401", "Unauthenticated", "No credentials, or none that hold."),
    ("403", "Forbidden", "The caller's role does not allow it, or a page of another site asked."),
    ("404", "NotFound", "There is no such thing."),
    ("409", "Conflict", "The present state does not allow it."),
    ("412", "PreconditionFailed", "It has changed since the version that `If-Match` names."),
    ("413", "TooLarge", "The body is larger than the limit."),
    ("415", "UnsupportedMediaType", "The body is not JSON."),
    ("421", "Misdirected", "The host does not answer to the name in `Host`."),
    ("422", "InvalidField", "What was sent can be read and is wrong; `error.field` says where."),
    ("429", "TooMany", "Too often; `Retry-After` says when."),
    ("500", "Internal", "The host or a plugin failed."),
    ("501", "NotAvailable", "This host has been built or configured without it."),
    ("503", "Unavailable", "Not now; `Retry-After` says when."),
    ("504", "Timeout", "It was not done within its time."),
];

/// Adds what operations have in common: unique ids, shared parameters, headers and refusals.
pub(crate) fn complete(document: OpenApi) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        for (path, item) in paths {
            let Some(item) = item.as_object_mut() else { continue };
            for (method, operation) in item {
                if let Some(operation) = operation.as_object_mut() {
                    complete_operation(path, method, operation);
                }
            }
        }
    }
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        if let Some(schemas) = components.get_mut("schemas").and_then(Value::as_object_mut) {
            schemas.values_mut().for_each(drop_needless_defaults);
        }
        components.insert("responses".to_owned(), refusals());
        components.insert("parameters".to_owned(), parameters());
        components.insert("headers".to_owned(), headers());
        components.insert("securitySchemes".to_owned(), security_schemes());
    }
    document
}

/// Takes out the defaults of properties that have to be given: that of the type in code, such as an empty
/// id, need not even be a value that is allowed.
fn drop_needless_defaults(schema: &mut Value) {
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().cloned().collect();
    for name in required.iter().filter_map(Value::as_str) {
        if let Some(property) = schema["properties"][name].as_object_mut() {
            property.remove("default");
        }
    }
}

/// Where an operation has the permission that it takes.
pub(crate) const PERMISSION: &str = "x-permission";

/// Says of an operation what role its permission takes, where the handler has said which permission it is. An
/// operation of which nothing is said is closed.
fn complete_security(operation: &mut Map<String, Value>) {
    let said = operation.remove("security");
    let permission = said.as_ref().and_then(|said| said[0]["bearer"][0].as_str()).and_then(Permission::named);
    if let Some(permission) = permission {
        operation.insert(PERMISSION.to_owned(), permission.name().into());
        // Roles where the scheme has no scopes (OpenAPI 3.1, security requirement object).
        operation.insert("security".to_owned(), json!([{"bearer": [permission.role().as_str()]}]));
    } else if said == Some(json!([{}])) {
        operation.insert("security".to_owned(), json!([]));
    }
}

fn security_schemes() -> Value {
    json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API token of this host, or a JSON Web Token of the issuer that it knows. Not asked \
                            for on a host that says `access.required = false`, where everybody may do everything.",
        },
    })
}

fn complete_operation(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let tag = operation.get("tags").and_then(|tags| tags[0].as_str()).unwrap_or("host").to_owned();
    let name = operation.get("operationId").and_then(Value::as_str).unwrap_or(method).to_owned();
    operation.insert("operationId".to_owned(), format!("{tag}_{name}").into());

    complete_security(operation);
    let is_public = !operation.contains_key(PERMISSION);
    let write = method != "get";
    let has_body = operation.contains_key("requestBody");
    let versioned = matches!(
        (path, method),
        ("/scheduler/tasks/{id}", "put" | "delete") | ("/plugins/{name}/config", "put")
    );
    let conditional = matches!(
        (path, method),
        ("/scheduler/tasks/{id}" | "/plugins/{name}/config" | "/openapi.json", "get")
    );
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    if let Some(parameters) = parameters.as_array_mut() {
        if write {
            parameters.push(json!({"$ref": "#/components/parameters/IdempotencyKey"}));
        }
        if write {
            parameters.push(json!({"$ref": "#/components/parameters/DryRun"}));
        }
        if versioned {
            parameters.push(json!({"$ref": "#/components/parameters/IfMatch"}));
        }
        if conditional {
            parameters.push(json!({"$ref": "#/components/parameters/IfNoneMatch"}));
        }
    }
    let named = path.contains('{');
    // People's pages and probes come from no service that may be missing.
    let plain = tag == "tour" || path.starts_with("/health");
    if conditional {
        operation["responses"]["304"] = json!({"description": "It is what `If-None-Match` names."});
    }
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    for (status, component, _) in REFUSALS {
        let applies = match status {
            "401" | "429" => !is_public,
            "404" => named,
            "409" => write,
            "412" => versioned,
            "413" | "415" => has_body,
            "501" | "503" => !plain,
            "504" => false,
            _ => true,
        };
        if applies && !responses.contains_key(status) {
            responses
                .insert(status.to_owned(), json!({"$ref": format!("#/components/responses/{component}")}));
        }
    }
    for (status, response) in responses {
        if status == "504" {
            *response = json!({"$ref": "#/components/responses/Timeout"});
        } else if let Some(response) = response.as_object_mut().filter(|r| !r.contains_key("$ref")) {
            let headers = json!({
                "x-trace-id": {"$ref": "#/components/headers/TraceId"},
                "x-request-id": {"$ref": "#/components/headers/RequestId"},
            });
            response.entry("headers").or_insert(headers);
        }
    }
}

fn refusals() -> Value {
    let mut responses = Map::new();
    for (_, name, description) in REFUSALS {
        let mut response = json!({
            "description": description,
            "headers": {
                "x-trace-id": {"$ref": "#/components/headers/TraceId"},
                "x-request-id": {"$ref": "#/components/headers/RequestId"},
            },
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorEnvelope"}}},
        });
        if matches!(name, "Unavailable" | "TooMany") {
            response["headers"]["retry-after"] =
                json!({"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}});
        }
        responses.insert(name.to_owned(), response);
    }
    Value::Object(responses)
}

fn parameters() -> Value {
    json!({
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "A repeated request with the same key is not done again; it gets the first one's \
                            answer, for a day.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        },
        "DryRun": {
            "name": "dry_run",
            "in": "query",
            "required": false,
            "description": "Checks everything and answers as if it had been done, but changes nothing.",
            "schema": {"type": "boolean", "default": false},
        },
        "IfNoneMatch": {
            "name": "If-None-Match",
            "in": "header",
            "required": false,
            "description": "The `ETag` that the caller has seen; 304 without a body if it has not changed since.",
            "schema": {"type": "string"},
        },
        "IfMatch": {
            "name": "If-Match",
            "in": "header",
            "required": false,
            "description": "The `ETag` that the caller has seen; refused with 412 if it has changed since.",
            "schema": {"type": "string"},
        },
    })
}

fn headers() -> Value {
    json!({
        "TraceId": {
            "description": "The W3C trace id of the request.",
            "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        },
        "RequestId": {
            "description": "The client's `X-Request-Id`, or the trace id.",
            "schema": {"type": "string"},
        },
    })
}

/// May be kept, and has to be asked for each time.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// The entity tag of the document. The same program gives the same.
pub(crate) fn tag(document: &[u8]) -> HeaderValue {
    let mut hasher = DefaultHasher::new();
    document.hash(&mut hasher);
    HeaderValue::try_from(format!("\"{:016x}\"", hasher.finish())).unwrap_or(HeaderValue::from_static("\"\""))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "tour", security(()), operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1.", content_type = "application/json", body = Object)))]
pub(crate) async fn serve(ctx: Ctx) -> Response {
    let headers = [
        (header::CONTENT_TYPE, JSON),
        (header::CACHE_CONTROL, NO_CACHE),
        (header::ETAG, ctx.shared.openapi_tag.clone()),
    ];
    (headers, ctx.shared.openapi.clone()).into_response()
}
