//! A real browser without a window: Chromium, driven over its DevTools
//! protocol through a pipe, so that no port is opened.
//!
//! Messages are JSON with a zero byte behind each. One page is opened, and all
//! that its console, its loader and its scripts complain of is kept.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, killpg};
use serde_json::{Value, json};

use crate::lab::cleanup::{Scratch, to_pid};
use crate::lab::{Namespace, Process, wait_for};

/// How long the browser may take for anything, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// How a page is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// A browser with one page; dropping it ends it.
pub struct Browser {
    process: Process,
    orders: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    last: u64,
    complaints: Vec<String>,
    _directory: Scratch,
}

impl Browser {
    /// Starts one in a namespace, with an empty page of this width and height.
    ///
    /// # Errors
    /// When there is no `chromium`, or it does not answer.
    pub fn start(namespace: &Namespace, width: u32, height: u32) -> Result<Self> {
        let directory = Scratch::create("browser")?;
        let data = directory.path().join("data");
        let mut command = namespace.command("sh");
        // It reads orders from descriptor 3 and answers on 4.
        command.args([
            "-c",
            "exec \"$@\" 3<&0 4>&1 </dev/null >&2",
            "sh",
            "chromium",
        ]);
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-breakpad",
            "--disable-extensions",
            "--disable-sync",
            "--hide-scrollbars",
            "--lang=en-GB",
            "--no-first-run",
            "--no-default-browser-check",
            "--password-store=basic",
        ]);
        command.arg(format!("--user-data-dir={}", data.display()));
        command.env("HOME", directory.path()).env("TZ", "UTC");
        let log = std::fs::File::create(directory.path().join("log"))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut process = Process::spawn_piped("chromium", command)?;
        let orders = process.child().stdin.take().context("no pipe to it")?;
        let answers = process.child().stdout.take().context("no pipe from it")?;
        let (sender, messages) = mpsc::channel();
        thread::Builder::new()
            .name("browser".to_owned())
            .spawn(move || {
                for message in BufReader::new(answers).split(0) {
                    let message = message.ok().and_then(|it| serde_json::from_slice(&it).ok());
                    let Some(message) = message else { return };
                    if sender.send(message).is_err() {
                        return;
                    }
                }
            })?;
        let mut browser = Self {
            process,
            orders,
            messages,
            session: None,
            last: 0,
            complaints: Vec::new(),
            _directory: directory,
        };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attached = browser.call(
            "Target.attachToTarget",
            json!({"targetId": page["targetId"], "flatten": true}),
        )?;
        let session = attached["sessionId"].as_str().context("no session")?;
        browser.session = Some(session.to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        browser.resize(width, height)?;
        Ok(browser)
    }

    /// Gives the page another size.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        Ok(())
    }

    /// Says which colours the viewer prefers.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub fn prefer(&mut self, scheme: Scheme) -> Result<()> {
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let feature = json!({"name": "prefers-color-scheme", "value": value});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}))?;
        Ok(())
    }

    /// Opens an address.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({"url": url}))?;
        let error = opened.get("errorText");
        ensure!(error.is_none(), "{url}: {error:?}");
        Ok(())
    }

    /// The value of an expression on the page.
    ///
    /// # Errors
    /// When it throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let answer = self.call("Runtime.evaluate", asked)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression on the page is true.
    ///
    /// # Errors
    /// When it is not in time; what the page says is in the message.
    pub fn wait(&mut self, what: &str, expression: &str) -> Result<()> {
        let found = wait_for(what, LIMIT, || {
            let value = self.evaluate(expression).ok()?;
            (value == Value::Bool(true)).then_some(())
        });
        found.with_context(|| {
            let text = self.evaluate("document.body.innerText");
            format!(
                "{expression}: the page says {text:?}, complaints: {:?}",
                self.complaints
            )
        })
    }

    /// Presses a key that prints nothing, or that letter.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let text = match key {
            "Enter" => Some("\r"),
            " " | "/" => Some(key),
            _ => None,
        };
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            " " => 32,
            _ => 0,
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code});
            if let (Some(text), "keyDown") = (text, kind) {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }

    /// Types into what has the focus.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({"text": text}))?;
        Ok(())
    }

    /// The names and roles that a screen reader is told.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub fn accessibility(&mut self) -> Result<Vec<(String, String)>> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}))?;
        let nodes = tree["nodes"].as_array().context("no tree")?;
        let of = |node: &Value, key: &str| {
            let text = node[key]["value"].as_str();
            text.unwrap_or_default().to_owned()
        };
        let told = nodes.iter().filter(|node| node["ignored"] != true);
        Ok(told
            .map(|node| (of(node, "role"), of(node, "name")))
            .collect())
    }

    /// The page as a PNG, in its whole height.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub fn screenshot(&mut self) -> Result<Vec<u8>> {
        let asked = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.call("Page.captureScreenshot", asked)?;
        let data = picture["data"].as_str().context("no picture")?;
        Ok(STANDARD.decode(data)?)
    }

    /// Errors and warnings of the console, the loader and scripts so far.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        // All that came before its answer has been read.
        self.evaluate("0")?;
        Ok(self.complaints.clone())
    }

    fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.last += 1;
        let id = self.last;
        let mut order = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            order["sessionId"] = session.as_str().into();
        }
        let mut bytes = serde_json::to_vec(&order)?;
        bytes.push(0);
        self.orders
            .write_all(&bytes)
            .context("it takes no orders")?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => bail!("{method}: no answer in {LIMIT:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("{method}: chromium has ended"),
            };
            if message["id"] == id {
                let error = message.get("error");
                ensure!(error.is_none(), "{method}: {error:?}");
                return Ok(message["result"].clone());
            }
            self.complaints.extend(complaint(&message));
        }
    }
}

/// What an event complains of.
fn complaint(event: &Value) -> Option<String> {
    let about = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(format!("thrown: {}", about["exceptionDetails"])),
        "Runtime.consoleAPICalled" => {
            let is_bad = ["error", "warning", "assert"].contains(&about["type"].as_str()?);
            is_bad.then(|| format!("console: {}", about["args"]))
        }
        "Log.entryAdded" => {
            let entry = &about["entry"];
            let is_bad = ["error", "warning"].contains(&entry["level"].as_str()?);
            is_bad.then(|| format!("log: {} {}", entry["text"], entry["url"]))
        }
        _ => None,
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends by itself, with its children, when nobody drives it; those
        // that did not are in its group.
        let group = to_pid(self.process.pid());
        self.session = None;
        let _ = self.call("Browser.close", json!({}));
        let _ = self.process.wait(Duration::from_secs(5));
        let _ = killpg(group, Signal::SIGKILL);
    }
}
