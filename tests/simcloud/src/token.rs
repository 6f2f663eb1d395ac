//! Google's token endpoint, and service-account key files that lead to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::http::{Call, Reply};
use crate::machine::{self, MachineError};
use crate::world::{World, now};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// The audience that google-auth writes whatever the key file's `token_uri` is (2.62.2, `oauth2/service_account.py`).
const REAL_ENDPOINT: &str = "https://oauth2.googleapis.com/token";
/// Google's tokens live an hour.
const LIFETIME: f64 = 3_600.0;

/// The tokens that were issued, and when they end in Unix milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    issued: Mutex<BTreeSet<(String, u64)>>,
}

impl Tokens {
    /// Whether a token was issued here and is still valid.
    pub(crate) fn accepts(&self, token: &str) -> bool {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued
            .iter()
            .any(|(known, end)| known == token && std::time::Duration::from_millis(*end).as_secs_f64() > now())
    }

    fn issue(&self) -> String {
        let token = format!("ya29.sim-{}", hex::encode(rand::random::<[u8; 24]>()));
        self.keep(&token);
        token
    }

    fn keep(&self, token: &str) {
        let end = std::time::Duration::from_secs_f64(now() + LIFETIME).as_millis();
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        self.issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((token.to_owned(), end));
    }
}

/// Writes a service-account key file whose `token_uri` is this sim. The key pair is made once per sim.
///
/// # Errors
/// When `openssl` is missing or the file cannot be written.
pub(crate) fn write_service_account(world: &World, path: &Path) -> Result<(), MachineError> {
    let private = key_directory(world)?.join("service-account.pem");
    if !private.exists() {
        let mut generate = Command::new("openssl");
        generate
            .args([
                "genpkey",
                "-quiet",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-out",
            ])
            .arg(&private);
        machine::run(&mut generate)?;
        let mut public = Command::new("openssl");
        public
            .args(["pkey", "-pubout", "-in"])
            .arg(&private)
            .arg("-out")
            .arg(private.with_extension("pub"));
        machine::run(&mut public)?;
    }
    let key = fs::read_to_string(&private).map_err(|source| MachineError::File {
        what: "read",
        path: private.clone(),
        source,
    })?;
    let project = &world.options.project;
    let file = json!({
        "type": "service_account", "project_id": project, "private_key_id": "sim0000000000000000000000000000000000000",
        "private_key": key, "client_email": account(project), "client_id": "100000000000000000000",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": format!("{}/token", world.base_url()),
        "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs", "universe_domain": "googleapis.com",
    });
    machine::replace(path, &format!("{file:#}\n"), 0o600)
}

fn account(project: &str) -> String {
    format!("warmspare@{project}.iam.gserviceaccount.com")
}

fn key_directory(world: &World) -> Result<PathBuf, MachineError> {
    let directory = world.root().join("keys");
    fs::create_dir_all(&directory).map_err(|source| MachineError::File {
        what: "create",
        path: directory.clone(),
        source,
    })?;
    Ok(directory)
}

/// `POST /token`: exchanges a signed assertion for an access token.
pub(crate) fn exchange(world: &Arc<World>, call: &Call) -> Reply {
    let form = reqwest::Url::parse(&format!("http://sim/?{}", String::from_utf8_lossy(&call.raw)));
    let field = |name: &str| {
        let (_, value) = form.as_ref().ok()?.query_pairs().find(|(key, _)| key == name)?;
        Some(value.into_owned())
    };
    if field("grant_type").as_deref() != Some(GRANT) {
        return refusal("unsupported_grant_type", "Invalid grant_type");
    }
    match verify(world, &field("assertion").unwrap_or_default()) {
        Ok(()) => {
            let token = world.tokens.issue();
            Reply::ok(json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}))
        }
        Err(reason) => refusal("invalid_grant", reason),
    }
}

fn refusal(slug: &str, description: &str) -> Reply {
    Reply::json(400, json!({"error": slug, "error_description": description}))
}

/// Whether a bearer token is a JWT that the service account signed for itself: Google's Python clients skip the exchange.
pub(crate) fn is_self_signed(world: &World, token: &str) -> bool {
    let for_compute = |claim: &Value| {
        let audience = claim["aud"].as_str().unwrap_or_default();
        audience.starts_with("https://compute.googleapis.com/")
            || audience.starts_with(world.base_url())
            || claim["scope"].is_string()
    };
    let fits = signed_claims(world, token).is_ok_and(|claim| for_compute(&claim));
    if fits {
        // Verified once: the check starts a program.
        world.tokens.keep(token);
    }
    fits
}

fn verify(world: &World, assertion: &str) -> Result<(), &'static str> {
    let claim = signed_claims(world, assertion)?;
    if claim["aud"] != json!(format!("{}/token", world.base_url())) && claim["aud"] != REAL_ENDPOINT {
        return Err("Invalid JWT: wrong audience.");
    }
    if claim["scope"].as_str().is_none_or(str::is_empty) {
        return Err("Invalid OAuth scope or ID token audience provided.");
    }
    Ok(())
}

/// The claims of a JWT that our account signed and that has not run out.
fn signed_claims(world: &World, assertion: &str) -> Result<Value, &'static str> {
    let mut parts = assertion.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("Invalid JWT: three parts are needed.");
    };
    // Google takes padded parts too, which gcp_auth sends.
    let decoded = |part: &str| {
        URL_SAFE_NO_PAD
            .decode(part.trim_end_matches('='))
            .map_err(|_| "Invalid JWT: not base64url.")
    };
    let claim: Value = serde_json::from_slice(&decoded(claims)?).map_err(|_| "Invalid JWT: claims are not JSON.")?;
    if claim["iss"] != json!(account(&world.options.project)) {
        return Err("Invalid grant: account not found");
    }
    if claim["exp"].as_f64().is_none_or(|end| end < now()) {
        return Err("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.");
    }
    check_signature(world, &format!("{header}.{claims}"), &decoded(signature)?)?;
    Ok(claim)
}

fn check_signature(world: &World, signed: &str, signature: &[u8]) -> Result<(), &'static str> {
    let failed = "Invalid JWT Signature.";
    let directory = key_directory(world).map_err(|_| failed)?;
    let name = uuid::Uuid::new_v4().simple().to_string();
    let (text, proof) = (
        directory.join(format!("{name}.txt")),
        directory.join(format!("{name}.sig")),
    );
    let written = fs::write(&text, signed).and_then(|()| fs::write(&proof, signature));
    let mut check = Command::new("openssl");
    check
        .args(["dgst", "-sha256", "-verify"])
        .arg(directory.join("service-account.pub"))
        .arg("-signature")
        .arg(&proof)
        .arg(&text);
    let verdict = written
        .map_err(|_| failed)
        .and_then(|()| machine::run(&mut check).map(drop).map_err(|_| failed));
    let _ = fs::remove_file(text);
    let _ = fs::remove_file(proof);
    verdict
}
