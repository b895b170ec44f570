#!/bin/sh
# Starts Triton on a model repository of recgpt with everything closed that serving does not need.
# Further arguments go to tritonserver unchanged. What may be set from outside:
#
#   RECGPT_MODELS            the model repository (/models)
#   RECGPT_CONFIG            settings of the models: "bounded", or any other configs/NAME.pbtxt (bounded)
#   RECGPT_BIND              address to listen on (127.0.0.1)
#   RECGPT_CONTROL_KEY_FILE  file of the key with which models may be loaded, by `recgpt bundle publish`;
#                            without it the models of the start are served to the end
#   RECGPT_TLS_DIR           folder with tls.crt and tls.key: gRPC is encrypted; with client-ca.crt as well, clients
#                            need a certificate that this authority signed
set -eu

models=${RECGPT_MODELS:-/models}
bind=${RECGPT_BIND:-127.0.0.1}
# A key that nobody knows closes what it is asked for.
nobody=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')

set -- \
    "--grpc-restricted-protocol=shared-memory,trace,logging:recgpt-closed=$nobody" \
    "--http-restricted-api=inference,metadata,model-config,model-repository,statistics,shared-memory,trace,logging:recgpt-closed=$nobody" \
    --exit-timeout-secs=20 \
    --disable-auto-complete-config \
    "$@"

if [ -n "${RECGPT_CONTROL_KEY_FILE:-}" ]; then
    key=$(cat "$RECGPT_CONTROL_KEY_FILE")
    set -- --model-control-mode=explicit '--load-model=*' \
        "--grpc-restricted-protocol=model-repository:recgpt-control=$key" "$@"
else
    set -- --model-control-mode=none "$@"
fi

if [ -n "${RECGPT_TLS_DIR:-}" ]; then
    set -- --grpc-use-ssl=true "--grpc-server-cert=$RECGPT_TLS_DIR/tls.crt" "--grpc-server-key=$RECGPT_TLS_DIR/tls.key" "$@"
    if [ -f "$RECGPT_TLS_DIR/client-ca.crt" ]; then
        set -- --grpc-use-ssl-mutual=true "--grpc-root-cert=$RECGPT_TLS_DIR/client-ca.crt" "$@"
    fi
fi

exec tritonserver "--model-repository=$models" "--model-config-name=${RECGPT_CONFIG:-bounded}" \
    "--grpc-address=$bind" "--http-address=$bind" "--metrics-address=$bind" "$@"
