@echo off
rem The qlora command of the distribution on Windows: finds a JDK 25 or newer and runs java.
rem Extra options for the JVM: set QLORA_JAVA_OPTS=-Xmx8g
setlocal EnableExtensions EnableDelayedExpansion
set "need=25"
set "home=%~dp0.."
set "jdk="
set "best=0"
if defined JAVA_HOME call :consider "%JAVA_HOME%"
if not defined jdk (
    for /f "delims=" %%J in ('where java 2^>nul') do call :consider "%%~dpJ.."
    for %%P in ("%ProgramFiles%\Eclipse Adoptium" "%ProgramFiles%\Java" "%ProgramFiles%\Microsoft" "%ProgramFiles%\Zulu" "%ProgramFiles%\Amazon Corretto" "%ProgramFiles%\BellSoft" "%USERPROFILE%\.jdks" "%USERPROFILE%\scoop\apps") do (
        for /d %%D in ("%%~P\*") do (
            call :consider "%%D"
            call :consider "%%D\current"
        )
    )
)
if not defined jdk (
    echo qlora: a JDK %need% or newer is needed and none was found: not in JAVA_HOME, not on the PATH, and not in the usual places. 1>&2
    echo qlora: Install one ^(https://adoptium.net^), or point JAVA_HOME at one, and start again. 1>&2
    exit /b 1
)
set "collector=-XX:+UseSerialGC -XX:MaxNewSize=64m"
if defined QLORA_JAVA_OPTS if not "!QLORA_JAVA_OPTS:-XX:+Use=!"=="!QLORA_JAVA_OPTS!" set "collector="
set "DJL_OFFLINE=true"
set "OPT_OUT_TRACKING=true"
setlocal DisableDelayedExpansion
"%jdk%\bin\java.exe" "@%home%\libexec\jvm-options" %collector% %QLORA_JAVA_OPTS% -jar "%home%\qlora.jar" %*
exit /b %ERRORLEVEL%

rem Takes the folder as jdk where its release file says that it is new enough, and newer than what was found before.
:consider
if not exist "%~1\bin\java.exe" goto :eof
if not exist "%~1\release" goto :eof
for /f "usebackq tokens=1,2 delims==" %%A in ("%~1\release") do (
    if "%%A"=="JAVA_VERSION" for /f "delims=.-+" %%V in ("%%~B") do (
        if %%V GEQ %need% if %%V GTR !best! (
            set "best=%%V"
            set "jdk=%~1"
        )
    )
)
goto :eof
