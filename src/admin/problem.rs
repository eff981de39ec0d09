//! Why the admin API did not do what it was asked: problem details (RFC 9457).

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::config::Fault;

vocabulary! {
    /// The kinds of problems.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub(super) enum ProblemKind {
        NoApi = "no_admin_api",
        BadRequest = "bad_request",
        TokenRefused = "token_refused",
        TooManyFailures = "too_many_failures",
        NotFound = "not_found",
        WrongMethod = "wrong_method",
        KeyUsed = "idempotency_key_used",
        TooLong = "body_too_long",
        NotJson = "body_not_json",
        Faulty = "configuration_faulty",
        Failed = "failed",
        Unavailable = "unavailable",
    }
    fn word;
}

impl ProblemKind {
    /// What tells it from others, for programs.
    pub(super) fn name(self) -> String {
        format!("urn:faregate:problem:{}", self.word())
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::NoApi | Self::NotFound => StatusCode::NOT_FOUND,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TokenRefused => StatusCode::UNAUTHORIZED,
            Self::TooManyFailures => StatusCode::TOO_MANY_REQUESTS,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::KeyUsed => StatusCode::CONFLICT,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Faulty => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::NoApi => "the admin API is off",
            Self::BadRequest => "the request is wrong",
            Self::TokenRefused => "the token is missing or wrong",
            Self::TooManyFailures => "too many wrong tokens",
            Self::NotFound => "not found",
            Self::WrongMethod => "another method is needed",
            Self::KeyUsed => "the idempotency key was used for something else",
            Self::TooLong => "the body is too long",
            Self::NotJson => "the body is not JSON",
            Self::Faulty => "the configuration has faults",
            Self::Failed => "it failed",
            Self::Unavailable => "not possible now",
        }
    }
}

/// A request that was not done.
#[derive(Debug)]
pub(super) struct Problem {
    kind: ProblemKind,
    /// What is wrong, and what to do.
    detail: String,
    header: Option<(HeaderName, String)>,
    faults: Vec<Fault>,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), header: None, faults: Vec::new() }
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::BadRequest, detail)
    }

    /// A configuration that cannot be used.
    pub(super) fn faulty(detail: String, faults: Vec<Fault>) -> Self {
        Self { faults, ..Self::new(ProblemKind::Faulty, detail) }
    }

    pub(super) fn with_header(self, name: HeaderName, value: impl Into<String>) -> Self {
        Self { header: Some((name, value.into())), ..self }
    }

    pub(super) fn response(self) -> Response<Vec<u8>> {
        let status = self.kind.status();
        let mut body = json!({
            "type": self.kind.name(),
            "title": self.kind.title(),
            "status": status.as_u16(),
            "detail": self.detail,
        });
        if let (Value::Object(body), false) = (&mut body, self.faults.is_empty()) {
            body.insert("faults".to_owned(), json!(self.faults));
        }
        let mut response = super::answer(status, "application/problem+json", format!("{body}\n"));
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::try_from(value)
        {
            response.headers_mut().insert(name, value);
        }
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer realm=\"faregate admin\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}
