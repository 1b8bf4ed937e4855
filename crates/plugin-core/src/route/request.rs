//! A request to a route, and what it carries.

use bytes::Bytes;
use http::request::Parts;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::{Body, RouteError};

/// The parameters that a request's path had, by name. Few, so that a search is the fastest lookup.
#[derive(Debug, Clone, Default)]
pub struct PathParams(Vec<(String, String)>);

impl PathParams {
    /// These parameters, already percent-decoded.
    #[must_use]
    pub fn new(params: Vec<(String, String)>) -> Self {
        Self(params)
    }

    /// The parameter `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A request to a plugin's route.
#[derive(Debug)]
pub struct RouteRequest {
    /// Method, URI, headers and extensions.
    pub parts: Parts,
    /// The body. The transport has bounded its size.
    pub body: Body,
    params: PathParams,
}

impl RouteRequest {
    /// A request with the parameters of its path.
    #[must_use]
    pub fn new(request: Request<Body>, params: PathParams) -> Self {
        let (parts, body) = request.into_parts();
        Self { parts, body, params }
    }

    /// The path parameter `name`, percent-decoded.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name)
    }

    /// The query string, as `T`.
    ///
    /// # Errors
    ///
    /// A 400 that says what is wrong with it.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, RouteError> {
        serde_urlencoded::from_str(self.parts.uri.query().unwrap_or_default())
            .map_err(|error| RouteError::new(StatusCode::BAD_REQUEST, format!("query: {error}")))
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// A 400 if the client stops sending, a 413 if it sends more than the transport allows.
    pub async fn bytes(self) -> Result<Bytes, RouteError> {
        match self.body.collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err(RouteError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than the limit"))
            }
            Err(error) => Err(RouteError::new(StatusCode::BAD_REQUEST, format!("body: {error}"))),
        }
    }

    /// The body, as JSON.
    ///
    /// # Errors
    ///
    /// A 400 if it is not JSON, a 422 that names the field if it is and does not fit `T`.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, RouteError> {
        let bytes = self.bytes().await?;
        let mut decoder = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut decoder).map_err(|error| {
            let field = match error.path().to_string() {
                path if path == "." => "body".to_owned(),
                path => path,
            };
            let status = match error.inner().classify() {
                serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
                _ => StatusCode::BAD_REQUEST,
            };
            RouteError::new(status, format!("{field}: {}", error.inner()))
        })?;
        decoder.end().map_err(|error| RouteError::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        Ok(value)
    }

    /// The request as `http` has it.
    #[must_use]
    pub fn into_request(self) -> Request<Body> {
        Request::from_parts(self.parts, self.body)
    }
}
