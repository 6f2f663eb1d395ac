//! `warmspare estimate` and the place of a standby, by the prices that Google's catalogue has today.

use serde_json::Value;
use simcloud::{Fault, FaultAction};
use warmspare_e2e::{Stage, await_phase, created, fast, play, running_gpu, until, warmspare, word};

const BUILT_IN: &str = "2026-07-30";

async fn estimate(stage: &Stage, gpu: u64, arguments: &[&str]) -> anyhow::Result<String> {
    let output = warmspare(stage, &[&["estimate", &gpu.to_string()], arguments].concat()).await?;
    let text = String::from_utf8(output.stdout)?;
    anyhow::ensure!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

async fn estimate_json(stage: &Stage, gpu: u64) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&estimate(stage, gpu, &["--json"]).await?)?)
}

fn catalogue_readings(stage: &Stage) -> usize {
    let requests = stage.cloud.requests();
    let first_pages = requests
        .iter()
        .filter(|request| request.path.ends_with("/skus") && !request.query.contains_key("pageToken"));
    first_pages.count()
}

#[test]
fn an_estimate_has_the_prices_of_the_day_and_the_standby_goes_where_it_is_cheapest() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            until("the sweep has read the prices", async || {
                Ok(word(&estimate_json(stage, gpu).await?["prices_of"]) != BUILT_IN)
            })
            .await?;
            let shown = estimate_json(stage, gpu).await?;
            let region = word(&shown["region"]).to_owned();
            assert_eq!(shown["monthly"][0]["origin"], "catalogue", "{shown:#}");
            let text = estimate(stage, gpu, &["--data-gb", "100", "--gb-per-day", "20"]).await?;
            for part in [
                &format!("would be in {region}, "),
                "USD a month",
                "the region nearest to the GPU",
                "if there is no capacity",
                "e2-medium Spot machine",
                "external IPv4 address",
                "100 GB pd-standard data disk",
                "10 GB pd-standard boot disk",
                "600 GB pulled, at the GPU host's price",
                "control plane (this process)",
                "a restore of 100 GB, once: 12.00 USD",
                "read from Google's Cloud Billing Catalog at 20",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            let many = estimate(stage, gpu, &["--expected-files", "1000000"]).await?;
            assert!(
                many.contains("100 GB pd-balanced data disk") && many.contains("1000000 files"),
                "{many}"
            );

            let answer = created(stage, gpu).await?;
            assert!(word(&answer["reason"]).contains(&format!("in {region}, ")), "{answer}");
            let view = await_phase(stage, gpu, &["protected"]).await?;
            assert!(word(&view["zone"]).starts_with(&region), "{view:#}");
            assert!(
                estimate(stage, gpu, &[])
                    .await?
                    .contains(&format!("is in {}", word(&view["zone"])))
            );

            let shown = warmspare(stage, &["show", &gpu.to_string()]).await?;
            let shown = String::from_utf8(shown.stdout)?;
            for part in [
                "cost             about $",
                "e2-medium Spot machine $",
                "source-path workspace",
            ] {
                assert!(shown.contains(part), "{part}: {shown}");
            }

            // A restart finds the prices where they were kept, and asks nobody.
            stage.kill_serve().await;
            stage.cloud.inject(refused());
            stage.start_serve().await?;
            let shown = estimate_json(stage, gpu).await?;
            assert_eq!(shown["monthly"][0]["origin"], "catalogue", "{shown:#}");
            let requests = stage.cloud.requests().len();
            until("sweeps pass", async || Ok(stage.cloud.requests().len() > requests + 8)).await?;
            assert_eq!(catalogue_readings(stage), 1);
            stage.cloud.clear_faults();
            Ok(())
        })
    });
}

fn refused() -> Fault {
    let body = serde_json::json!({"error": {"code": 403, "status": "PERMISSION_DENIED",
        "message": "Cloud Billing API has not been used in project 123 before or it is disabled."}});
    Fault::once("GET", "/v1/services/*", FaultAction::Body { code: 403, body }).times(1000)
}

#[test]
fn without_the_catalogue_the_dated_table_serves_and_says_so_aloud() {
    // The first story refuses the API, the second leads to a port where nobody listens.
    for (name, value) in [("sweep_s", "1"), ("gcp_billing_url", "http://127.0.0.1:1")] {
        play(fast().with(name, value), |stage| {
            Box::pin(async {
                stage.cloud.inject(refused());
                let gpu = running_gpu(stage).await?;
                // One that was read before the fault came is thrown away.
                stage.kill_serve().await;
                drop(std::fs::remove_file(stage.state_dir().join("prices.json")));
                // The one that was killed may have logged a refusal of its own.
                let told_before = std::fs::read_to_string(stage.log_path())?.len();
                stage.start_serve().await?;
                until("the refusal was logged", async || {
                    let log = std::fs::read_to_string(stage.log_path())?;
                    let since = log.get(told_before..).unwrap_or(&log);
                    Ok(since.contains("Google's price list could not be read"))
                })
                .await?;
                let text = estimate(stage, gpu, &[]).await?;
                for part in [
                    "OLD prices of 2026-07-30",
                    "Cyclenerd/google-cloud-pricing-cost-calculator",
                    "was not read yet",
                    "(of 2026-07-30)",
                ] {
                    assert!(text.contains(part), "{part}: {text}");
                }
                let before = catalogue_readings(stage);
                let requests = stage.cloud.requests().len();
                until("sweeps pass", async || Ok(stage.cloud.requests().len() > requests + 8)).await?;
                assert_eq!(catalogue_readings(stage), before, "a refused list is not hammered");
                created(stage, gpu).await?;
                await_phase(stage, gpu, &["protected"]).await.map(drop)
            })
        });
    }
}
