//! Who is calling: signatures of hooks and webhooks, tokens of the API.

use std::time::Duration;

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use warmspare_domain::units::Timestamp;

use super::Failure;
use crate::config::{ApiToken, Scope};

/// How far the time in a signature may lie from ours. Vast documents the same for its own. `reference/vast/vast-api.md` §11a.
const WINDOW: Duration = Duration::from_secs(300);

/// The names of the headers that carry a signature.
#[derive(Debug, Clone, Copy)]
pub struct SealHeaders {
    /// Seconds since 1970, as text; part of what is signed.
    pub timestamp: &'static str,
    /// `sha256=` and HMAC-SHA256(secret, timestamp + "." + body) in hex.
    pub signature: &'static str,
}

/// The headers of hooks that tools send.
pub const HOOK: SealHeaders = SealHeaders {
    timestamp: "x-warmspare-timestamp",
    signature: "x-warmspare-signature-256",
};

/// The headers of Vast's notifications.
pub const VAST: SealHeaders = SealHeaders {
    timestamp: "x-vast-timestamp",
    signature: "x-vast-signature-256",
};

/// Checks a signature over the raw body, in constant time.
///
/// # Errors
/// 401 that says which part is wrong, and nothing about the secret.
pub fn check(
    headers: &HeaderMap,
    names: SealHeaders,
    body: &[u8],
    secret: Option<&SecretString>,
    now: Timestamp,
) -> Result<(), Failure> {
    let secret = secret.ok_or_else(|| {
        Failure::unauthorized(
            "no secret is set for these calls, so none is accepted; set hook_secret or webhook_secret",
        )
    })?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let timestamp = text(names.timestamp)
        .ok_or_else(|| Failure::unauthorized(format!("the header {} is missing", names.timestamp)))?;
    let signature = text(names.signature)
        .and_then(|value| value.strip_prefix("sha256="))
        .and_then(|hexadecimal| hex::decode(hexadecimal).ok())
        .ok_or_else(|| {
            Failure::unauthorized(format!("the header {} is missing or not sha256=<hex>", names.signature))
        })?;
    let mut mac = mac(secret);
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.verify_slice(&signature)
        .map_err(|_| Failure::unauthorized("the signature does not fit the body, the timestamp and our secret"))?;
    let signed_at = parse_seconds(timestamp)
        .ok_or_else(|| Failure::unauthorized("the signed timestamp is not a number of seconds"))?;
    if now.since(signed_at) > WINDOW || signed_at.since(now) > WINDOW {
        return Err(Failure::unauthorized(
            "the signature is older or newer than 300 s: it is a replay, or a clock is wrong",
        ));
    }
    Ok(())
}

/// Signs a body as [`check`] expects it; answers timestamp and signature header values.
#[must_use]
pub fn sign(secret: &SecretString, body: &[u8], now: Timestamp) -> (String, String) {
    let timestamp = (now.as_millis() / 1000).to_string();
    let mut mac = mac(secret);
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    (timestamp, signature)
}

fn mac(secret: &SecretString) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes keys of any length")
}

fn parse_seconds(text: &str) -> Option<Timestamp> {
    let seconds: f64 = text.parse().ok()?;
    #[allow(clippy::cast_possible_truncation, reason = "the range was just checked")]
    (0.0..1e12)
        .contains(&seconds)
        .then(|| Timestamp::from_millis((seconds * 1000.0) as i64))
}

/// Checks a bearer token for a scope. Only hashes are compared, so timing tells nothing about a token.
///
/// # Errors
/// 401 without a known token, 403 when it may only look.
pub fn check_token(headers: &HeaderMap, tokens: &[ApiToken], wanted: Scope) -> Result<(), Failure> {
    let bearer = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let bearer = bearer
        .ok_or_else(|| Failure::unauthorized("send `Authorization: Bearer <token>`; `warmspare token` makes one"))?;
    let hash: [u8; 32] = Sha256::digest(bearer.trim().as_bytes()).into();
    let known = tokens
        .iter()
        .find(|token| token.sha256 == hash)
        .ok_or_else(|| Failure::unauthorized("this token is not known here"))?;
    if known.scope < wanted {
        let message = "this token may only look; use one with the scope `operate`";
        return Err(Failure::new(
            axum::http::StatusCode::FORBIDDEN,
            "read_only_token",
            message,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(timestamp: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-vast-timestamp", timestamp.parse().unwrap());
        headers.insert("x-vast-signature-256", signature.parse().unwrap());
        headers
    }

    #[test]
    fn a_signature_fits_one_body_one_time_and_one_secret() {
        let (secret, now) = (SecretString::from("s3cret"), Timestamp::from_millis(1_795_441_530_250));
        let (timestamp, signature) = sign(&secret, b"{}", now);
        let good = headers(&timestamp, &signature);
        assert_eq!(check(&good, VAST, b"{}", Some(&secret), now), Ok(()));
        assert!(check(&good, VAST, b"{ }", Some(&secret), now).is_err(), "tampered body");
        assert!(
            check(&good, VAST, b"{}", Some(&"other".into()), now).is_err(),
            "other secret"
        );
        assert!(check(&good, VAST, b"{}", None, now).is_err(), "no secret set");
        assert!(
            check(&good, VAST, b"{}", Some(&secret), now + Duration::from_secs(302)).is_err(),
            "stale"
        );
        assert!(
            check(&good, VAST, b"{}", Some(&secret), now - Duration::from_secs(302)).is_err(),
            "from the future"
        );
        assert!(
            check(&headers("1795441531", &signature), VAST, b"{}", Some(&secret), now).is_err(),
            "other timestamp"
        );
    }

    #[test]
    fn the_signature_is_the_documented_one() {
        // echo -n '1787722703.{"a":1}' | openssl dgst -sha256 -hmac key
        let (timestamp, signature) = sign(&"key".into(), b"{\"a\":1}", Timestamp::from_millis(1_787_722_703_000));
        assert_eq!(timestamp, "1787722703");
        assert_eq!(
            signature,
            "sha256=51f0d8cf8deeafc1baa6a59fdb9825afe1675aefb5fdd9e4e3d1406f9eb2a047"
        );
    }
}
