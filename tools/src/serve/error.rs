//! What the server answers where it cannot do what was asked: OpenAI's error object, with a fitting status.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::queue::Refused;

/// A refused or failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    /// The status of the answer.
    pub(super) status: StatusCode,
    /// What was expected and what was found.
    pub(super) message: String,
    /// The field of the request that is wrong, as a path: `messages[0].role`.
    pub(super) param: Option<String>,
    /// A word for programs.
    pub(super) code: Option<&'static str>,
    /// After how many seconds to try again.
    pub(super) retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// The request is wrong as a whole.
    pub(super) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// The field `param` of the request is wrong.
    pub(super) fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::bad_request(message) }
    }

    /// The same error with a word for programs.
    pub(super) fn with_code(self, code: &'static str) -> ApiError {
        ApiError { code: Some(code), ..self }
    }

    /// The bearer token is missing or wrong.
    pub(super) fn unauthorized() -> ApiError {
        let message = "this server asks for a bearer token: send the header `Authorization: Bearer TOKEN`";
        ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key")
    }

    /// There is nothing at this path, or not for this method.
    pub(super) fn no_such(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError::new(status, message)
    }

    /// The model that was asked for is not this server's.
    pub(super) fn no_such_model(asked: &str, served: &str) -> ApiError {
        let message = format!("there is no model {asked:?} here; this server has {served:?}");
        let error = ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found");
        ApiError { param: Some("model".to_owned()), ..error }
    }

    /// The body has more bytes than the server takes.
    pub(super) fn too_large(most_bytes: usize) -> ApiError {
        let message = format!("the body has more than {most_bytes} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// The body took too long to arrive.
    pub(super) fn slow_body() -> ApiError {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body of the request did not arrive in time")
    }

    /// The queue is full.
    pub(super) fn busy() -> ApiError {
        let message = "as many requests wait as the server takes; try again later";
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).with_code("rate_limit_exceeded");
        ApiError { retry_after: Some(1), ..error }
    }

    /// The time for a request is over.
    pub(super) fn timed_out() -> ApiError {
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "the request took longer than the server allows")
            .with_code("timeout")
    }

    /// The server is about to end.
    pub(super) fn shutting_down() -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down").with_code("shutting_down")
    }

    /// Something failed that the client cannot mend.
    pub(super) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// OpenAI's object.
    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let Self { message, param, code, .. } = self;
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> ApiError {
        match refused {
            Refused::Full => ApiError::busy(),
            Refused::Closed => ApiError::shutting_down(),
        }
    }
}
