// Compares each ServiceMonitor and PrometheusRule, one JSON object a line, with the operator's schemas.
import { readFileSync } from 'node:fs';
import * as models from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1';

const all = readFileSync(process.argv[2], 'utf8').trim().split('\n').map((it) => JSON.parse(it));
for (const { apiVersion, kind, ...rest } of all) new models[kind](rest).validate();
if (all.length < 5) throw new Error(`only ${all.length} resources of the operator were rendered`);
console.log(`ok: ${all.length} resources fit the Prometheus operator`);
