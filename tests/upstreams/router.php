<?php
// An ordinary script for PHP's built-in server. It does not look at the method and reads no body.
$method = $_SERVER['REQUEST_METHOD'];
$target = $_SERVER['REQUEST_URI'];
$route = $_SERVER['HTTP_X_PAYMENT_ROUTE'] ?? '-';
file_put_contents(getenv('LOG'), "$method\t$target\t$route\n", FILE_APPEND | LOCK_EX);
$answer = "$method $target";
header('Content-Length: ' . strlen($answer));
echo $answer;
