use super::*;

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn defaults_are_the_specifications() {
    let config = Config::from_settings(&settings(&[("vast_api_key", "k"), ("gcp_project", "p")])).unwrap();
    assert_eq!(config.policy.machine.machine_type, "e2-medium");
    assert_eq!(config.policy.machine.disk_gb, 100);
    assert_eq!(config.policy.machine.provisioning, Provisioning::Spot);
    assert_eq!(config.policy.failover, Failover::Manual);
    assert!(config.auto_standby);
    assert_eq!(config.beat, Duration::from_secs(30));
}

#[test]
fn every_problem_is_reported_at_once() {
    let wrong = settings(&[
        ("gcp_zone", "us-central1"),
        ("gcp_disk_size", "big"),
        ("gcp_spot", "maybe"),
        ("gcp_credentials", "/nonexistent/key.json"),
        ("hook_secret_file", "/nonexistent/secret"),
        ("source_path", "/workspace/../etc"),
        ("vast_url", "http://vast.example"),
        ("failover", "automatic"),
        ("api_tokens", "a-bare-token-by-mistake"),
        ("gcp_machne_type", "e2-small"),
    ]);
    let error = Config::from_settings(&wrong).unwrap_err();
    let mut named: Vec<_> = error.0.iter().map(|problem| problem.setting.as_str()).collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [
            "api_tokens",
            "failover_max_price_per_hour",
            "gcp_credentials",
            "gcp_disk_size",
            "gcp_machne_type",
            "gcp_project",
            "gcp_spot",
            "gcp_zone",
            "hook_secret_file",
            "source_path",
            "vast_api_key",
            "vast_url"
        ]
    );
    let text = error.to_string();
    assert!(text.contains("did you mean gcp_machine_type?"), "{text}");
    assert!(!text.contains("a-bare-token-by-mistake"), "{text}");
}

#[test]
fn what_travels_first_may_be_written_as_it_lies_on_the_gpu() {
    let read = |first| {
        Config::from_settings(&settings(&[
            ("vast_api_key", "k"),
            ("gcp_project", "p"),
            ("source_path", "/data"),
            ("first", first),
        ]))
    };
    let first = read("/data/src, runs/best.pt/").unwrap().policy.first;
    assert_eq!(first, ["src", "runs/best.pt"].map(|path| path.parse().unwrap()));
    let error = read("src, /workspace/src").unwrap_err();
    let named: Vec<_> = error.0.iter().map(|problem| problem.setting.as_str()).collect();
    assert_eq!(named, ["first"]);
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let config = Config::from_settings(&settings(&[("vast_api_key", "very-secret"), ("gcp_project", "p")])).unwrap();
    assert!(!format!("{config:?}").contains("very-secret"));
}

#[test]
fn the_list_of_settings_is_what_is_really_read() {
    let mut everything: BTreeMap<String, String> = SETTINGS
        .iter()
        .map(|setting| (setting.name.to_owned(), String::new()))
        .collect();
    everything.insert("no_such_setting_at_all".to_owned(), "x".to_owned());
    let error = Config::from_settings(&everything).unwrap_err();
    let unknown: Vec<_> = error
        .0
        .iter()
        .filter(|problem| problem.text.contains("no such setting"))
        .map(|p| p.setting.as_str())
        .collect();
    assert_eq!(unknown, ["no_such_setting_at_all"], "a listed setting is not read");
    let known: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    let empty = BTreeMap::new();
    let asked = reader::names_read_by(&empty);
    let unlisted: Vec<_> = asked
        .iter()
        .filter(|name| !name.ends_with("_file") && !known.contains(&name.as_str()))
        .collect();
    assert!(unlisted.is_empty(), "read but not listed: {unlisted:?}");
}
