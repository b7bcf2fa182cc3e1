//! What `decap` says of its packets. The JSON keys are a contract.

use anyhow::Context;
use balancer_common::decap::Fate;
use serde::Serialize;

use super::output;
use crate::cli::table::{Column, Table};
use crate::cli::units;
use crate::dataplane::decap::Counts;

/// What was unwrapped and refused on one interface since the start.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Report<'a> {
    interface: &'a str,
    /// Packets unwrapped, all forms together.
    packets: u64,
    /// Bytes of the inner packets.
    bytes: u64,
    forms: Vec<Form>,
    refusals: Vec<Refusal>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Form {
    name: &'static str,
    packets: u64,
    bytes: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Refusal {
    name: &'static str,
    packets: u64,
    /// `passed` or `dropped`.
    fate: &'static str,
}

impl<'a> Report<'a> {
    pub(super) fn new(interface: &'a str, counts: &Counts) -> Self {
        let sum = counts.unwrapped();
        let forms = counts.forms.iter().map(|(form, count)| Form {
            name: form.name(),
            packets: count.packets,
            bytes: count.bytes,
        });
        let refusals = counts.refusals.iter().map(|(refusal, packets)| Refusal {
            name: refusal.name(),
            packets: *packets,
            fate: match refusal.fate() {
                Fate::Pass => "passed",
                Fate::Drop => "dropped",
            },
        });
        Self {
            interface,
            packets: sum.packets,
            bytes: sum.bytes,
            forms: forms.collect(),
            refusals: refusals.collect(),
        }
    }

    /// Prints it for people, or as one line of JSON.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        if !json {
            return output::print(&self.text());
        }
        let line = serde_json::to_string(self).context("writing JSON")?;
        output::print(&format!("{line}\n"))
    }

    /// The sum, then each form and refusal that has had a packet.
    fn text(&self) -> String {
        let mut text = format!(
            "{}: {} unwrapped ({}), {} ({})\n",
            self.interface,
            units::counted(self.packets, "packet"),
            self.packets,
            units::bytes(self.bytes),
            self.bytes
        );
        let columns = [
            Column::Text("unwrapped"),
            Column::Number("packets"),
            Column::Number("bytes"),
        ];
        let mut forms = Table::new(&columns, false);
        for form in self.forms.iter().filter(|form| form.packets > 0) {
            forms.row([
                form.name.to_owned(),
                form.packets.to_string(),
                form.bytes.to_string(),
            ]);
        }
        let columns = [
            Column::Text("refused"),
            Column::Number("packets"),
            Column::Text("fate"),
        ];
        let mut refusals = Table::new(&columns, false);
        for refusal in self.refusals.iter().filter(|refusal| refusal.packets > 0) {
            refusals.row([
                refusal.name.to_owned(),
                refusal.packets.to_string(),
                refusal.fate.to_owned(),
            ]);
        }
        text += &forms.render("  ");
        text += &refusals.render("  ");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_common::decap::{Count, Form, Refusal};

    fn counts(forms: &[(Form, u64, u64)], refusals: &[(Refusal, u64)]) -> Counts {
        let mut counts = Counts {
            forms: Form::ALL.iter().map(|f| (*f, Count::default())).collect(),
            refusals: Refusal::ALL.iter().map(|r| (*r, 0)).collect(),
        };
        for (form, packets, bytes) in forms {
            let count = &mut counts.forms[*form as usize].1;
            (count.packets, count.bytes) = (*packets, *bytes);
        }
        for (refusal, packets) in refusals {
            counts.refusals[*refusal as usize].1 = *packets;
        }
        counts
    }

    #[test]
    fn text_names_what_happened_and_nothing_else() {
        let counts = counts(
            &[(Form::Ipip4in4, 1234, 3_400_000), (Form::Gue6in4, 7, 900)],
            &[(Refusal::UntrustedSource, 12), (Refusal::EcnDrop, 3)],
        );
        assert_eq!(
            Report::new("eth0", &counts).text(),
            "eth0: 1.2k packets unwrapped (1241), 3.4 MB (3400900)\n\
             \x20 unwrapped  packets    bytes\n\
             \x20 ipip_4in4     1234  3400000\n\
             \x20 gue_6in4         7      900\n\
             \x20 refused           packets  fate\n\
             \x20 untrusted_source       12  passed\n\
             \x20 ecn_drop                3  dropped\n"
        );
    }

    #[test]
    fn quiet_interface_is_one_line() {
        assert_eq!(
            Report::new("eth0", &counts(&[], &[])).text(),
            "eth0: 0 packets unwrapped (0), 0 B (0)\n"
        );
    }

    #[test]
    fn json_has_every_form_and_refusal() {
        let counts = counts(&[(Form::Gue4in6, 2, 80)], &[(Refusal::Truncated, 1)]);
        let value = serde_json::to_value(Report::new("eth0", &counts)).unwrap();
        assert_eq!(value["packets"], 2);
        assert_eq!(value["bytes"], 80);
        assert_eq!(value["forms"].as_array().unwrap().len(), Form::COUNT);
        assert_eq!(value["forms"][6]["name"], "gue_4in6");
        assert_eq!(value["forms"][6]["packets"], 2);
        assert_eq!(value["refusals"].as_array().unwrap().len(), Refusal::COUNT);
        assert_eq!(value["refusals"][1]["name"], "truncated");
        assert_eq!(value["refusals"][1]["packets"], 1);
        assert_eq!(value["refusals"][1]["fate"], "passed");
        assert_eq!(value["refusals"][6]["fate"], "dropped");
    }
}
