//! The stage without a story: a protected GPU that is written to, a second one, and the words that a person needs to play on it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use warmspare_stage::{Stage, word};

use super::story::{await_phase, rent, rent_and_work, saved, start_training};
use super::timeline::{Timeline, Tone};

/// How often the stage is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Sets the stage, says what there is, and tells what happens on it until it is dropped.
pub(super) async fn stay(stage: &Stage, timeline: &Timeline, data: Option<&Path>) -> anyhow::Result<Infallible> {
    let gpu = rent_and_work(stage, timeline, data).await?;
    stage.hook("gpu-created", json!({"gpu_id": gpu.to_string()})).await?;
    let second = rent(stage, timeline).await?;
    timeline.tell(
        Tone::Plain,
        &format!("GPU {second} has no standby, and nothing is on it"),
    );
    await_phase(stage, timeline, gpu, "protected").await?;
    let view = stage.view(gpu).await?;
    timeline.tell(
        Tone::Good,
        &format!(
            "GPU {gpu} is protected: {} saved; {second} is empty, and has no standby",
            saved(&view)
        ),
    );
    timeline.clear();
    print!("{}", invitation(stage, gpu, second)?);
    let mut told = BTreeMap::new();
    tell_steps(stage, timeline, &mut told, Telling::Nothing).await?;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // The stage is the visitor's: one who stops `warmspare serve` on it will see what becomes of that.
        let _ = tell_steps(stage, timeline, &mut told, Telling::All).await;
    }
}

/// What to say of steps that were not seen before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    All,
    Nothing,
}

/// Tells each new step of each association. Training goes on wherever the data went.
async fn tell_steps(
    stage: &Stage,
    timeline: &Timeline,
    told: &mut BTreeMap<String, String>,
    telling: Telling,
) -> anyhow::Result<()> {
    let (_, views) = stage.api(Method::GET, "/v1/associations?all=true", None).await?;
    for view in views.as_array().into_iter().flatten() {
        let last = told.entry(word(&view["association"]).to_owned()).or_default();
        let history = view["history"].as_array().into_iter().flatten();
        let steps: Vec<&Value> = history.filter(|step| word(&step["at"]) > last.as_str()).collect();
        let Some(newest) = steps.last() else { continue };
        word(&newest["at"]).clone_into(last);
        if telling == Telling::Nothing {
            continue;
        }
        let gpu = word(&view["gpu"]).trim_start_matches("vast-");
        for step in &steps {
            let (tone, to) = (tone(word(&step["to"])), word(&step["to"]));
            timeline.tell(tone, &format!("GPU {gpu}: {to}, because {}", word(&step["reason"])));
        }
        let came_back = word(&newest["to"]) == "protected" && matches!(word(&newest["from"]), "holding" | "restoring");
        if came_back && let Ok(gpu) = gpu.parse() {
            start_training(stage, gpu, 0)?;
            timeline.tell(Tone::Plain, &format!("training goes on at GPU {gpu}"));
        }
    }
    Ok(())
}

fn tone(phase: &str) -> Tone {
    match phase {
        "protected" => Tone::Good,
        "holding" | "halted" => Tone::Trouble,
        _ => Tone::Plain,
    }
}

/// What to type into a second terminal.
fn invitation(stage: &Stage, gpu: u64, second: u64) -> anyhow::Result<String> {
    let program = std::env::current_exe()?;
    let programs = program.parent().unwrap_or(Path::new("/"));
    Ok(format!(
        r#"
It is all yours until Ctrl-C. Paste this into a second terminal:

export PATH={programs}:"$PATH" WARMSPARE_URL={url} WARMSPARE_TOKEN={token}
GPU={gpu} GPU2={second} WORKSPACE={workspace} SIM={sim}/sim

Look:     warmspare list; warmspare show $GPU; warmspare points $GPU; warmspare plan $GPU; warmspare machines
          or open {url}, which asks for the token
Take:     warmspare download $GPU /tmp/mine
          warmspare download $GPU --path training.log --tar | tar -xO | tail
Change:   warmspare configure $GPU --exclude '*.json'
          warmspare configure $GPU --failover automatic --failover-max-dollars-per-hour 1
          warmspare estimate $GPU2; warmspare protect $GPU2; warmspare sync stop $GPU2
Write:    date >> $WORKSPACE/mine.txt; rm -r $WORKSPACE/dataset/1*
          all of it gone, rm -r $WORKSPACE/*, halts copying: warmspare sync accept-source $GPU
Lose it:  curl -X POST $SIM/gpus/$GPU/outbid
          instead of outbid: stop-silently (no notice), host-offline (out of reach), remove (gone, with its disk);
          outbid-clears and host-online take theirs back
Get back: warmspare restore $GPU --rent 1
          warmspare restore $GPU --onto $GPU2
Let go:   warmspare release $GPU

What happens is told here.
"#,
        programs = quoted(programs),
        url = stage.serve_url(),
        token = stage.token(),
        workspace = quoted(&stage.workspace(gpu)?),
        sim = stage.cloud.base_url(),
    ))
}

/// As a shell takes it for one word.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
