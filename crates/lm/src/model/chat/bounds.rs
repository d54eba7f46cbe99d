//! Templates are programs of strangers: they get so many steps, so much text and memory, and a stack that is deep enough for what
//! they nest. Most of what they make costs steps, 64 bytes one; for the rest there is [`mindgap_base::memory`].

use mindgap_base::error::{Error, Result};
use mindgap_base::guard::guarded;
use mindgap_base::memory::within;
use minijinja::{Environment, Template, Value};
use std::io::{self, Write};

/// Steps of one rendering. Chat templates take some hundred a message.
const FUEL: u64 = 1_000_000;
/// Bytes of a template. The longest of published checkpoints have some ten thousand.
const SOURCE_BYTES: usize = 256 << 10;
/// Bytes of what is rendered.
const TEXT_BYTES: usize = 16 << 20;
/// Bytes that a rendering may hold beside its variables.
const MEMORY: usize = 256 << 20;

/// Compiles a template with bounds on what it may do.
///
/// Errors: too long a source; `what` and how it does not compile, as `failed` says it.
pub fn add(
    environment: &mut Environment<'static>,
    name: &str,
    source: String,
    failed: impl Fn(minijinja::Error) -> Error + Send,
) -> Result<()> {
    check_length(&source)?;
    environment.set_fuel(Some(FUEL));
    guarded("the template", || environment.add_template_owned(name.to_string(), source).map_err(failed))
}

/// Error: too long a source.
pub fn check_length(source: &str) -> Result<()> {
    if source.len() > SOURCE_BYTES {
        let what = format!("the template has {} bytes, more than the {SOURCE_BYTES} that are read", source.len());
        return Err(Error::input(what).hint("a template is a text of some thousand bytes; is this another file?"));
    }
    Ok(())
}

/// What a template makes of its variables; an error where it does not come to an end, or to too much.
pub fn render(template: &Template, values: Value) -> Result<String, minijinja::Error> {
    let what = format!("template `{}` takes more than {} MiB of memory", template.name(), MEMORY >> 20);
    let text = || {
        let mut text = Limited { bytes: Vec::new(), is_full: false };
        match within(MEMORY, &what, || template.render_captured_to(values, &mut text).map(drop)) {
            Ok(()) => Ok(String::from_utf8_lossy(&text.bytes).into_owned()),
            Err(_) if text.is_full => Err(refused(format!("its text is longer than {TEXT_BYTES} bytes"))),
            Err(error) => Err(error),
        }
    };
    // Without a variable that is set, nothing nests deeper than it is written.
    if !template.source().contains("set") {
        return text();
    }
    let mut rendered = None;
    let ended = guarded("the template", || {
        rendered = Some(text());
        Ok(())
    });
    ended.map_err(|error| refused(error.what().to_string()))?;
    rendered.expect("it was rendered")
}

fn refused(what: String) -> minijinja::Error {
    minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what)
}

/// Text up to a length.
struct Limited {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_full = self.bytes.len() + bytes.len() > TEXT_BYTES;
        if self.is_full {
            return Err(io::Error::other("the text is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn rendered(source: &str) -> Result<String, String> {
        let mut environment = Environment::new();
        add(&mut environment, "t", source.to_string(), |e| Error::input(e.to_string())).map_err(|e| e.to_string())?;
        render(&environment.get_template("t").unwrap(), context! { x => 1 }).map_err(|e| format!("{e:#}"))
    }

    /// Goal: a template that would run for ever, write without end, nest or be nested too deep is an error; a long conversation is not.
    #[test]
    fn templates_come_to_an_end() {
        assert_eq!(rendered("{% for i in range(9000) %}{{ x }}{% endfor %}").unwrap().len(), 9000);
        let loops = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
        assert!(rendered(loops).unwrap_err().contains("fuel"), "{:?}", rendered(loops));
        let long = format!("{{% for i in range(90000) %}}{}{{% endfor %}}", "x".repeat(1000));
        assert!(rendered(&long).unwrap_err().contains("longer than"), "{:?}", rendered(&long).map(|t| t.len()));
        let nested =
            "{% set ns = namespace(v=1) %}{% for i in range(50000) %}{% set ns.v = [ns.v] %}{% endfor %}{{ ns.v }}";
        assert!(rendered(nested).is_ok_and(|text| text.len() > 100_000));
        for deep in ["{{ not not ", "{{ 1 + ", "{{ -"] {
            let source = format!("{}1 }}}}", deep.to_string() + &deep[3..].repeat(60_000 / deep.len()));
            // Compiled or refused: it ends either way.
            let _ = rendered(&source);
        }
        assert!(rendered(&"x".repeat(300_000)).unwrap_err().contains("300000 bytes"));
    }
}
