//! The picture: a bar a case beside the reference's.

use super::machine::Machine;
use super::packets::Figure;
use crate::chart::{Chart, Row, Scale};

/// Draws the cases that have a figure of the reference to stand beside.
pub(super) fn draw(machine: &Machine, figures: &[Figure]) -> String {
    let row = |figure: &Figure| {
        let bar = |nanos: f64| (nanos, format!("{nanos:.0}"));
        Some(Row {
            name: figure.case.clone(),
            bars: [bar(figure.net_nanos.median), bar(figure.reference_nanos?)],
        })
    };
    let chart = Chart {
        title: "Nanoseconds a packet, net of the loop; less is better",
        label: "Nanoseconds a packet, case by case",
        legend: [
            "this balancer",
            "best known C balancer, same loop, like machine",
        ],
        foot: &format!("{}, Linux {}", machine.cpu_model, machine.kernel),
        scale: Scale::Linear,
        rows: figures.iter().filter_map(row).collect(),
    };
    chart.draw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Spread;
    use crate::chart::tests::lengths;

    fn figure(case: &str, net: f64, reference: Option<f64>) -> Figure {
        Figure {
            case: case.to_owned(),
            net_nanos: Spread::of(vec![net]),
            floor_nanos: Spread::of(vec![40.0]),
            reference_nanos: reference,
            of_reference: None,
            limit_nanos: None,
        }
    }

    #[test]
    fn every_case_with_a_reference_has_two_bars_in_proportion() {
        let machine = Machine {
            cpu_model: "A & B".to_owned(),
            cpus: 2,
            megahertz: None,
            kernel: "6.18".to_owned(),
            architecture: "x86_64".to_owned(),
        };
        let figures = [
            figure("a <b>", 100.0, Some(400.0)),
            figure("alone", 100.0, None),
        ];
        let svg = draw(&machine, &figures);
        assert!(svg.contains("a &lt;b&gt;") && svg.contains("A &amp; B"));
        assert!(!svg.contains("alone"));
        let widths = lengths(&svg);
        assert!((widths[1] / widths[0] - 4.0).abs() < 0.01, "{widths:?}");
    }
}
