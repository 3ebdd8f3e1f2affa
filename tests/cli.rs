//! The binary as operators use it: exit codes, what goes to which stream.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

fn strait(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    command.args(arguments).env_remove("STRAIT_CONFIG").output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn config(name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("relay.toml");
    fs::write(&file, text).unwrap();
    file
}

const RELAY: &str = r#"
[relay]
geo = "cn-east"
unit = "a"
name = "a-1"
[peer]
certificate = "a.pem"
key = "a.key"
trust = { sg = "sg.pem" }
[units.b]
geo = "sg"
[services."im.Echo"]
missing_key = "local"
[routing]
version = 9
dimensions = ["uid"]
[[routing.rules]]
dimension = "uid"
prefix = "15"
unit = "b"
"#;

#[test]
fn mistakes_in_the_configuration_give_code_2_and_name_file_and_line() {
    // O-C2
    let file = config("check", &RELAY.replace("unit = \"b\"", "unti = \"b\""));
    let file = file.to_str().unwrap();
    let output = strait(&["config", "check", "--config", file]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        err(&output).contains("relay.toml:20: routing.rules[0].unti: unknown key; did you mean \"unit\"?"),
        "{}",
        err(&output)
    );
    assert_eq!(out(&output), "");
    let output = strait(&["config", "check", "--config", file, "--output", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!(json["problems"][0]["key"], "routing.rules[0].unti");
    let file = config("check-right", RELAY);
    let output = strait(&["config", "check", "--config", file.to_str().unwrap()]);
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
}

#[test]
fn values_in_force_are_shown_with_their_origin() {
    // O-C2
    let file = config("show", RELAY);
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    command.args([
        "config",
        "show",
        "--config",
        file.to_str().unwrap(),
        "--set",
        "log.level=warn",
    ]);
    let output = command.env("STRAIT__RELAY__SHARDS", "3").output().unwrap();
    let text = out(&output);
    for (value, from) in [
        ("routing.version = 9 ", "relay.toml:15"),
        ("relay.shards = 3 ", "environment variable STRAIT__RELAY__SHARDS"),
        ("log.level = \"warn\" ", "flag --set log.level"),
        ("log.access = 0.0 ", "default"),
    ] {
        let line = text.lines().find(|line| line.starts_with(value));
        assert!(
            line.is_some_and(|line| line.ends_with(from)),
            "{value} from {from} is missing in\n{text}"
        );
    }
}

#[test]
fn a_key_never_sent_is_explained() {
    // C-R4
    let file = config("explain", RELAY);
    let explain = |more: &[&str]| strait(&[&["explain", "--config", file.to_str().unwrap()], more].concat());
    let output = explain(&["--key", "uid=1500", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(
        (json["owner"].as_str(), json["table_version"].as_u64()),
        (Some("b"), Some(9))
    );
    assert_eq!(json["rule"], "routing.rules[0].prefix");
    let output = explain(&["--key", "uid=9"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        out(&output).starts_with("refused      no rule of dimension uid"),
        "{}",
        out(&output)
    );
    assert!(out(&explain(&["--service", "im.Echo"])).starts_with("owner        a\n"));
    assert_eq!(explain(&["--service", "im.Other"]).status.code(), Some(2));
    let nowhere = strait(&["explain", "--key", "uid=9"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(
        err(&nowhere).contains("ask a running relay with strait route get"),
        "{}",
        err(&nowhere)
    );
}

#[test]
fn a_key_is_explained_without_the_store_as_a_new_one_would_have_it() {
    // C-R4, R-3.5
    let store = "
[routes]
store = \"embedded\"
authority = \"a/a-1\"
[[routes.dimension]]
name = \"uid\"
placement = \"claim\"
[calls.route.\"im.Chat\"]
reads = [\"History\"]
methods.Invite.dimensions = [\"uid\"]
";
    let file = config("explain-store", &format!("{RELAY}{store}"));
    let explain = |more: &[&str]| strait(&[&["explain", "--config", file.to_str().unwrap()], more].concat());
    let output = explain(&["--key", "uid=1500"]);
    let text = out(&output);
    assert!(text.starts_with("owner        b\n"), "{text}");
    assert!(
        text.contains("route store  not asked: so it is in a new store"),
        "{text}"
    );
    assert!(text.contains("strait route get --key"), "{text}");
    let output = explain(&["--key", "uid=9"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        out(&output).contains("no unit has claimed this key of dimension uid yet"),
        "{}",
        out(&output)
    );
    let method = [
        "--key",
        "uid=1500",
        "--service",
        "im.Chat",
        "--output",
        "json",
        "--method",
    ];
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_str(&out(&explain(&[&method[..], &[name]].concat()))).unwrap()
    };
    let (reads, invites) = (json("History"), json("Invite"));
    assert_eq!(
        (&reads["only_reads"], &reads["routed_by"]),
        (&true.into(), &serde_json::Value::Null)
    );
    assert_eq!(
        (&invites["only_reads"], &invites["on_failure"]),
        (&false.into(), &"fail".into())
    );
    assert_eq!(invites["routed_by"][0], "uid");
}

#[test]
fn a_wrong_command_line_gives_code_64() {
    for arguments in [
        &["fly"][..],
        &["config"],
        &["run", "--set", "x"],
        &["explain", "--key", "1"],
    ] {
        assert_eq!(strait(arguments).status.code(), Some(64), "{arguments:?}");
    }
    assert_eq!(strait(&["--help"]).status.code(), Some(0));
    assert_eq!(
        strait(&["run", "--config", "/nowhere/relay.toml"]).status.code(),
        Some(2)
    );
}

#[test]
fn schema_completions_reference_and_version_are_printed() {
    let schema: serde_json::Value = serde_json::from_str(&out(&strait(&["config", "schema"]))).unwrap();
    assert!(schema["properties"]["routing"].is_object());
    assert!(out(&strait(&["completions", "bash"])).contains("_strait"));
    let reference = out(&strait(&["config", "reference"]));
    assert_eq!(reference, fs::read_to_string("config/relay.toml").unwrap());
    assert!(out(&strait(&["version"])).starts_with(concat!("strait ", env!("CARGO_PKG_VERSION"))));
}

// R-3.6, O-S5: the secret is for its owner only, never overwritten, and a new one is added beside it.
#[test]
fn a_token_key_is_made_once_and_rotated_beside_the_old_one() {
    use std::os::unix::fs::PermissionsExt;

    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("token-key");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("token.keys");
    let name = file.to_str().unwrap();
    let output = strait(&["token-key", "--rotate", name]);
    assert_eq!(output.status.code(), Some(1), "there is nothing to rotate");
    let made = strait(&["token-key", name]);
    assert_eq!((made.status.code(), err(&made).as_str()), (Some(0), ""));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let first = fs::read_to_string(&file).unwrap();
    let key = first.strip_suffix(" sign\n").unwrap();
    assert!(key.len() == 64 && !out(&made).contains(key) && !err(&made).contains(key));
    let again = strait(&["token-key", name]);
    assert_eq!(again.status.code(), Some(1));
    assert!(err(&again).contains("--rotate"), "{}", err(&again));
    assert_eq!(fs::read_to_string(&file).unwrap(), first);
    for count in 2..=4 {
        assert!(strait(&["token-key", "--rotate", name]).status.success());
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), count);
        assert!(text.lines().next().unwrap().ends_with(" sign"));
        assert_eq!(text.matches(" verify").count(), count - 1);
        assert!(text.contains(&format!("{key} verify")));
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let full = strait(&["token-key", "--rotate", name]);
    assert_eq!(full.status.code(), Some(1));
    assert!(err(&full).contains("more than 4 keys"), "{}", err(&full));
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 4);
}

#[test]
fn token_keys_without_a_route_store_are_a_mistake() {
    let file = config(
        "tokens",
        &format!("{RELAY}\n[routes.tokens]\nkey_file = \"token.keys\"\ngeo_number = 0\n"),
    );
    let output = strait(&["config", "check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    for text in [
        "routes.tokens.key_file: tokens are for claimed keys",
        "routes.tokens.geo_number: must be 1",
    ] {
        assert!(err(&output).contains(text), "{}", err(&output));
    }
}
