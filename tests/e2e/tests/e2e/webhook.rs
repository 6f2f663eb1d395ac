//! `warmspare webhook`: from Vast's account to our door, with the secret kept and the signed test taken.

use std::process::Stdio;

use tokio::process::Command;
use warmspare_e2e::{Stage, fast, play, program};

async fn webhook(stage: &Stage, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program())
        .arg("webhook")
        .args(arguments)
        .env_clear()
        .env("WARMSPARE_VAST_URL", stage.cloud.vast_url())
        .env("WARMSPARE_VAST_API_KEY", &stage.cloud.options().vast_api_key)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the program runs");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_webhook_is_made_once_tested_and_given_a_new_secret() {
    play(fast(), |stage| {
        Box::pin(async {
            let url = stage.serve_url();
            let file = stage.directory().join("webhook-secret");
            let path = file.display().to_string();
            let test = ["test", "--url", &url];
            // The stage made one already, with the secret that `serve` has: it is recognised, and its test is taken.
            let (done, said) = webhook(stage, &["install", "--url", &url, "--secret-file", &path]).await;
            assert!(!done && said.contains("warmspare webhook rotate"), "{said}");
            let (done, said) = webhook(stage, &test).await;
            assert!(done && said.contains("was taken"), "{said}");

            let (done, said) = webhook(stage, &["rotate", "--url", &url, "--secret-file", &path]).await;
            assert!(done && said.contains("ssm put-parameter"), "{said}");
            let secret = std::fs::read_to_string(&file)?;
            assert!(
                secret.len() >= 16 && !said.contains(&secret),
                "the secret is for the file only"
            );
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
            let (done, said) = webhook(stage, &test).await;
            assert!(!done && said.contains("does it have this webhook's secret"), "{said}");

            let (done, said) = webhook(stage, &["test", "--url", "https://elsewhere.example"]).await;
            assert!(!done && said.contains("webhook install"), "{said}");
            let (done, said) = webhook(stage, &["test", "--url", "ftp://x"]).await;
            assert!(!done && said.contains("https://"), "{said}");
            let nowhere = [
                "install",
                "--url",
                "https://new.example",
                "--secret-file",
                "/nonexistent/secret",
            ];
            let (done, said) = webhook(stage, &nowhere).await;
            assert!(!done && said.contains("nothing was changed at Vast"), "{said}");

            let (done, said) = webhook(
                stage,
                &["install", "--url", "https://new.example", "--secret-file", &path],
            )
            .await;
            assert!(done, "{said}");
            assert_ne!(std::fs::read_to_string(&file)?, secret);
            Ok(())
        })
    });
}
