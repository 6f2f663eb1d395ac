//! Renting: `PUT asks/{id}`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::instance::{Instance, InstanceKey};
use super::{error, lifecycle};
use crate::delivery::notify;
use crate::http::{Call, Reply};
use crate::machine::Machine;
use crate::notices::Notice;
use crate::sshd;
use crate::world::{World, now};

/// How the next new instance turns out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Birth {
    /// It sits at `stopped` until somebody sends `running` again, a race seen live.
    SitsStopped,
    /// Its image is bad: it never runs and turns itself to `stopped`.
    BadImage,
}

struct Wish {
    body: Value,
    bid: Option<f64>,
    label: Option<String>,
}

/// `PUT /api/v0/asks/{offer}/`
pub(super) fn one(world: &Arc<World>, call: &Call, offer: &str) -> Reply {
    let Ok(offer) = offer.parse::<u64>() else {
        return error(400, "invalid_args", "ask id must be an integer");
    };
    match call.json() {
        Ok(body) => rent(world, offer, &body),
        Err(_) => error(400, "invalid_args", "Invalid json body"),
    }
}

/// `POST /api/v0/asks/bulk/`
pub(super) fn bulk(world: &Arc<World>, call: &Call) -> Reply {
    let body = call.json().unwrap_or(Value::Null);
    let ids: Vec<u64> = body["ids"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .collect();
    if ids.is_empty() || ids.len() > 64 {
        return error(400, "invalid_args", "ids must hold 1 to 64 offers");
    }
    let answers: Vec<(u64, Reply)> = ids.into_iter().map(|id| (id, rent(world, id, &body))).collect();
    let created = answers.iter().filter(|(_, reply)| reply.status == 200).count();
    let results: Vec<Value> = answers
        .iter()
        .map(|(id, reply)| {
            let crate::http::Payload::Json(body) = &reply.body else {
                return json!({"id": id});
            };
            json!({"id": id, "status": reply.status, "result": body})
        })
        .collect();
    let failed = results.len() - created;
    Reply::ok(json!({"success": failed == 0, "results": results, "created": created, "failed": failed, "elapsed": 0.1}))
}

fn rent(world: &Arc<World>, offer: u64, body: &Value) -> Reply {
    let wish = match checked(body) {
        Ok(wish) => wish,
        Err(refusal) => return refusal,
    };
    let (id, startable) = match book(world, offer, &wish) {
        Ok(booked) => booked,
        Err(refusal) => return refusal,
    };
    let machine = match Machine::create(&world.site, &format!("gpu-{id}")) {
        Ok(machine) => machine,
        Err(failure) => return error(500, "sim_failure", failure.to_string()),
    };
    let made = machine.empty("workspace");
    enter(world, id, offer, &wish, Arc::clone(&machine));
    if let Err(failure) = made.and_then(|()| lifecycle::write_keys(world, id)) {
        return error(500, "sim_failure", failure.to_string());
    }
    if startable {
        notify(world, Notice::created(id));
    }
    let birth = startable.then(|| world.state().vast.next_births.pop()).flatten();
    lifecycle::be_born(
        world,
        id,
        if startable {
            lifecycle::Begin::Running(birth)
        } else {
            lifecycle::Begin::Stopped
        },
    );
    let key = hex::encode(rand::random::<[u8; 32]>());
    Reply::ok(json!({"success": startable, "new_contract": id, "instance_api_key": key}))
}

fn checked(body: &Value) -> Result<Wish, Reply> {
    let invalid = |msg: &str| Err(error(400, "invalid_args", msg));
    if !body.is_object() {
        return invalid("Invalid json body");
    }
    if body["image"].as_str().is_none_or(str::is_empty) && body["template_hash_id"].as_str().is_none() {
        return invalid("image: field required");
    }
    let price = &body["price"];
    let bid = price.as_f64().filter(|price| (0.001..=128.0).contains(price));
    if bid.is_none() && !price.is_null() {
        return Err(error(400, "invalid_price", "price must be between 0.001 and 128"));
    }
    let label = body["label"].as_str().map(str::to_owned);
    if label.as_ref().is_some_and(|label| label.chars().count() > 256) {
        return invalid("label_too_long");
    }
    if body["onstart"].as_str().is_some_and(|script| script.len() > 4048) {
        return invalid("onstart is longer than 4048 characters");
    }
    if !body["disk"].is_null() && body["disk"].as_f64().is_none_or(|disk| disk < 1.0) {
        return invalid("disk must be a number of GB");
    }
    if let Some(unknown) = body["runtype"].as_str().filter(|runtype| !is_runtype(runtype)) {
        return invalid(&format!("runtype: {unknown} is not permitted"));
    }
    Ok(Wish {
        body: body.clone(),
        bid,
        label,
    })
}

fn is_runtype(text: &str) -> bool {
    const WORDS: [&str; 9] = [
        "ssh",
        "ssh_proxy",
        "ssh_direct",
        "ssh_direc",
        "jupyter",
        "jupyter_proxy",
        "jupyter_direct",
        "jupyter_direc",
        "args",
    ];
    !text.is_empty() && text.split(' ').all(|word| WORDS.contains(&word))
}

/// Takes the offer. Answers the new contract's number and whether it can start.
fn book(world: &Arc<World>, offer: u64, wish: &Wish) -> Result<(u64, bool), Reply> {
    let mut state = world.state();
    if state.vast.credit <= 0.0 {
        return Err(error(400, "missing_billing", "You lack credit, see the billing page."));
    }
    let hidden = state.vast.offers_hidden;
    let no_such = || error(404, "no_such_ask", format!("No ask by id {offer} is available."));
    let Some(ask) = state
        .vast
        .offers
        .get_mut(&offer)
        .filter(|ask| ask.resource_type != "disk")
    else {
        return Err(no_such());
    };
    let free = !ask.rented && !hidden;
    let high_enough = wish.bid.is_none_or(|bid| bid >= ask.min_bid);
    let startable = free && high_enough && wish.body["target_state"] != "stopped";
    let cancel = wish.body["cancel_unavail"].as_bool().unwrap_or(wish.bid.is_none());
    if !startable && cancel {
        return Err(error(
            410,
            "no_such_ask",
            format!("Instance type {offer} is no longer available."),
        ));
    }
    ask.rented = ask.rented || startable;
    Ok((state.vast.fresh_id(), startable))
}

fn enter(world: &Arc<World>, id: u64, offer: u64, wish: &Wish, machine: Arc<Machine>) {
    let mut state = world.state();
    let keys: Vec<InstanceKey> = state
        .vast
        .keys
        .iter()
        .map(|key| InstanceKey {
            id: key.id,
            text: key.text.clone(),
            works: true,
        })
        .collect();
    let Some(offer) = state.vast.offers.get(&offer).cloned() else {
        return;
    };
    let body = &wish.body;
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let runtype = text("runtype").unwrap_or_else(|| "ssh".to_owned());
    let instance = Instance {
        id,
        label: wish.label.clone(),
        bid: wish.bid,
        floor: offer.min_bid,
        image: text("image").unwrap_or_else(|| "vastai/base-image:@vastai-automatic-tag".to_owned()),
        runtype: runtype.replace("ssh_direct", "ssh_direc ssh_proxy"),
        onstart: text("onstart"),
        env: environment(&body["env"]),
        disk: body["disk"].as_f64().unwrap_or(10.0),
        actual: None,
        intended: "stopped",
        contract: "stopped",
        status_msg: None,
        ports_listed: false,
        address: sshd::free_address(sshd::random_port()),
        machine,
        keys,
        created_at: now(),
        started_at: None,
        end_date: now() + 864_000.0,
        change: 0,
        taken: wish.bid.is_some_and(|bid| bid < offer.min_bid) || offer_is_elsewhere(&state.vast.instances, offer.id),
        queued: false,
        start_refused: false,
        heard: None,
        hidden: false,
        start_announced: false,
        offer,
    };
    state.vast.instances.insert(id, instance);
}

fn offer_is_elsewhere(instances: &std::collections::BTreeMap<u64, Instance>, offer: u64) -> bool {
    instances
        .values()
        .any(|instance| instance.offer.id == offer && instance.intended == "running")
}

/// The environment in the form that is read back: pairs. Objects and docker flags are both accepted.
fn environment(env: &Value) -> Vec<(String, String)> {
    if let Some(pairs) = env.as_object() {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return pairs.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    }
    let mut words = env.as_str().unwrap_or_default().split_whitespace();
    let mut pairs = Vec::new();
    while let Some(flag) = words.next() {
        let argument = words.next().unwrap_or_default();
        match (flag, argument.split_once('=')) {
            ("-e", Some((name, value))) => pairs.push((name.to_owned(), value.to_owned())),
            _ => pairs.push((format!("{flag} {argument}"), "1".to_owned())),
        }
    }
    pairs
}
