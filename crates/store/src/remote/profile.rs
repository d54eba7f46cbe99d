//! AWS profiles: keys, region and endpoint from `~/.aws/credentials` and `~/.aws/config`, where the environment has none.

use crate::fs;
use mindgap_base::error::{Error, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a profile may say, and what it is called there.
const KEYS: [(&str, AmazonS3ConfigKey); 5] = [
    ("aws_access_key_id", AmazonS3ConfigKey::AccessKeyId),
    ("aws_secret_access_key", AmazonS3ConfigKey::SecretAccessKey),
    ("aws_session_token", AmazonS3ConfigKey::Token),
    ("region", AmazonS3ConfigKey::Region),
    ("endpoint_url", AmazonS3ConfigKey::Endpoint),
];

/// Adds to a builder what the profile says and the environment does not. Keys are taken together or not at all.
///
/// Errors: `AWS_PROFILE` names a profile that no file has, or one that holds no keys of its own (single sign-on, another program).
pub fn apply(mut builder: AmazonS3Builder) -> Result<AmazonS3Builder> {
    let asked = std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    let name = asked.clone().unwrap_or_else(|| "default".to_string());
    let found = read("AWS_SHARED_CREDENTIALS_FILE", "credentials", &name)?;
    let configured =
        read("AWS_CONFIG_FILE", "config", &if name == "default" { name.clone() } else { format!("profile {name}") })?;
    let wrong = |what: String, hint: &str| Err(Error::environment(what).hint(hint));
    let (Some(profile), has_keys) = (merged(found, configured), |p: &Section| p.contains_key("aws_access_key_id"))
    else {
        return match asked {
            Some(name) => wrong(
                format!("AWS_PROFILE names `{name}`, which is in neither ~/.aws/credentials nor ~/.aws/config"),
                "correct the name, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ),
            None => Ok(builder),
        };
    };
    let from_environment = builder.get_config_value(&AmazonS3ConfigKey::AccessKeyId).is_some();
    let elsewhere =
        profile.keys().any(|key| key.starts_with("sso_") || matches!(key.as_str(), "credential_process" | "role_arn"));
    if asked.is_some() && !from_environment && !has_keys(&profile) && elsewhere {
        return wrong(
            format!("profile `{name}` gets its keys from another program"),
            "put them into the environment: eval \"$(aws configure export-credentials --format env)\"",
        );
    }
    for (key, config) in KEYS {
        let is_secret = key.starts_with("aws_");
        let is_set = builder.get_config_value(&config).is_some();
        if let Some(value) = profile.get(key).filter(|_| !(is_set || is_secret && from_environment)) {
            builder = builder.with_config(config, value);
        }
    }
    Ok(builder)
}

type Section = BTreeMap<String, String>;

fn merged(a: Option<Section>, b: Option<Section>) -> Option<Section> {
    match (a, b) {
        (None, None) => None,
        (a, b) => Some(b.unwrap_or_default().into_iter().chain(a.unwrap_or_default()).collect()),
    }
}

/// A section of one of the two files; none where the file or the section is not there.
fn read(variable: &str, file: &str, section: &str) -> Result<Option<Section>> {
    let home = || std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE")).map(PathBuf::from);
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => match home() {
            Some(home) => home.join(".aws").join(file),
            None => return Ok(None),
        },
    };
    let bytes = fs::read_if_present(&path)?;
    Ok(bytes.and_then(|bytes| parse(&String::from_utf8_lossy(&bytes), section)))
}

fn parse(text: &str, wanted: &str) -> Option<Section> {
    let (mut found, mut inside) = (None, false);
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            inside = name.0.trim() == wanted;
            if inside {
                found.get_or_insert_with(Section::new);
            }
        } else if let (true, Some((key, value))) = (inside && !line.starts_with([' ', '\t']), line.split_once('=')) {
            found.get_or_insert_with(Section::new).insert(key.trim().to_string(), value.trim().to_string());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_found() {
        let text = "# mine\n[default]\naws_access_key_id = A\n\n[profile team]\nregion=eu-west-1\ns3 =\n  endpoint_url = nested\n";
        assert_eq!(parse(text, "default").unwrap()["aws_access_key_id"], "A");
        let team = parse(text, "profile team").unwrap();
        assert_eq!((team["region"].as_str(), team.contains_key("endpoint_url")), ("eu-west-1", false));
        assert_eq!(parse(text, "other"), None);
    }
}
