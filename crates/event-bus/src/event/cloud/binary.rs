//! CloudEvents 1.0 over HTTP, binary mode: attributes are headers, the body is the data as it is.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};

use super::CloudEventError;
use crate::event::{Event, MAX_METADATA_ENTRIES, MAX_METADATA_VALUE_BYTES, Payload, PayloadError};
use crate::refused::Reason;

/// What the name of a header with an attribute begins with.
pub const HEADER_PREFIX: &str = "ce-";
/// Attributes of the event's own, beside metadata.
const OWN_ATTRIBUTES: usize = 8;
/// Three characters for each byte, and quotes.
const MAX_HEADER_BYTES: usize = 3 * MAX_METADATA_VALUE_BYTES + 2;
/// What is escaped in a header, section 3.1.3.2: all but the printable ASCII characters, and of these the
/// blank, the double quote and the percent sign.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// How a message over HTTP carries events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One event in the body, as JSON.
    Structured,
    /// An array of events in the body, as JSON.
    Batch,
    /// One event, whose attributes are headers and whose data is the body.
    Binary,
}

/// How a message carries events: by its content type, and by whether it has the header `ce-specversion`.
/// Nothing where it is no CloudEvent.
///
/// # Errors
///
/// [`CloudEventError::Format`] for an event format that is not JSON.
pub fn mode(content_type: Option<&str>, has_version: bool) -> Result<Option<Mode>, CloudEventError> {
    let media_type = content_type.map(media_type).unwrap_or_default();
    match media_type.as_str() {
        "application/cloudevents" | "application/cloudevents+json" => Ok(Some(Mode::Structured)),
        "application/cloudevents-batch" | "application/cloudevents-batch+json" => Ok(Some(Mode::Batch)),
        other if other.starts_with("application/cloudevents") => {
            Err(CloudEventError::Format(other.chars().take(64).collect()))
        }
        _ if has_version => Ok(Some(Mode::Binary)),
        _ => Ok(None),
    }
}

/// An event in binary mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinaryMessage {
    /// Names in lower case, values in printable ASCII; `content-type` is among them where it is known.
    pub headers: Vec<(String, String)>,
    /// The data; empty where there is none.
    pub body: Vec<u8>,
}

/// Writes an event in binary mode. Headers are text: whether an attribute was a number is not told.
///
/// # Errors
///
/// If the event has a typed payload that cannot be serialized.
pub fn to_headers(event: &Event) -> Result<BinaryMessage, PayloadError> {
    let mut content_type = None;
    let mut headers = Vec::new();
    for (name, value) in event.attributes() {
        let value = value.to_string();
        if name == "datacontenttype" {
            content_type = Some(value);
        } else {
            let value = utf8_percent_encode(&value, ESCAPED).to_string();
            headers.push((format!("{HEADER_PREFIX}{name}"), value));
        }
    }
    let body = match event.payload().own() {
        Payload::None | Payload::Shared(_) => Vec::new(),
        // Checked when it came in.
        Payload::Base64(text) => {
            BASE64_STANDARD.decode(text.as_str().unwrap_or_default()).unwrap_or_default()
        }
        payload @ (Payload::Json(_) | Payload::Typed(_)) => {
            let data = payload.json()?;
            match (data, &content_type) {
                (Value::String(text), Some(kind)) if !is_json(kind) => text.clone().into_bytes(),
                _ => {
                    content_type.get_or_insert_with(|| "application/json".to_owned());
                    data.to_string().into_bytes()
                }
            }
        }
    };
    headers.extend(content_type.map(|kind| ("content-type".to_owned(), kind)));
    Ok(BinaryMessage { headers, body })
}

/// Reads an event in binary mode into the object of structured mode, for [`Event::from_json`]. Headers of
/// other names are passed over. The data is JSON or text, by the content type, or base64.
///
/// The body has to be bounded already.
///
/// # Errors
///
/// [`CloudEventError`] names the header that was refused.
pub fn from_headers<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: &[u8],
) -> Result<Map<String, Value>, CloudEventError> {
    read(headers, body).inspect_err(|_| Reason::Attribute.count())
}

fn read<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: &[u8],
) -> Result<Map<String, Value>, CloudEventError> {
    let mut object = Map::new();
    let mut content_type = None;
    for (header, value) in headers {
        let header = header.to_ascii_lowercase();
        let refused = |reason| CloudEventError::Header { header: header.chars().take(64).collect(), reason };
        if header == "content-type" {
            let text = std::str::from_utf8(value).map_err(|_| refused("is not text"))?;
            content_type = Some(text.trim().to_owned());
            continue;
        }
        let Some(name) = header.strip_prefix(HEADER_PREFIX) else { continue };
        if matches!(name, "data" | "metadata" | "datacontenttype" | "data_base64") {
            return Err(refused("is no header of an attribute"));
        }
        if object.len() == MAX_METADATA_ENTRIES + OWN_ATTRIBUTES {
            return Err(refused("is one attribute too many"));
        }
        let value = decode(value).map_err(refused)?;
        if object.insert(name.to_owned(), value.into()).is_some() {
            return Err(refused("stands twice"));
        }
    }
    let is_text = content_type.as_deref().is_some_and(|kind| media_type(kind).starts_with("text/"));
    let (field, data) = match std::str::from_utf8(body) {
        _ if body.is_empty() => ("data", None),
        _ if content_type.as_deref().is_some_and(is_json) => {
            let data = serde_json::from_slice(body).map_err(|e| CloudEventError::Body(e.to_string()))?;
            ("data", Some(data))
        }
        Ok(text) if is_text => ("data", Some(text.into())),
        _ => ("data_base64", Some(BASE64_STANDARD.encode(body).into())),
    };
    object.extend(data.map(|data| (field.to_owned(), data)));
    object.extend(content_type.map(|kind| ("datacontenttype".to_owned(), kind.into())));
    Ok(object)
}

/// Section 3.1.3.2: quotes around the whole are taken off, then percent signs are decoded, once.
fn decode(value: &[u8]) -> Result<String, &'static str> {
    if value.len() > MAX_HEADER_BYTES {
        return Err("is too long");
    }
    let text = std::str::from_utf8(value).map_err(|_| "is not text")?.trim();
    let text = match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => Cow::Owned(unquote(quoted)),
        None => Cow::Borrowed(text),
    };
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "is not utf-8 once its percent signs are decoded")
}

fn unquote(quoted: &str) -> String {
    let mut text = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(c) = characters.next() {
        text.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    text
}

/// Without its parameters, in lower case.
fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Section 3.1 of the JSON format.
fn is_json(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    media_type.ends_with("/json") || media_type.ends_with("+json")
}

#[cfg(test)]
mod tests;
